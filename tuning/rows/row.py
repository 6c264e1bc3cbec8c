"""Defines the canonical rows: every format of a dataset becomes one of these, and the rest of celora knows no other."""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""A message as chat templates take it: ``role`` (system, user, assistant, tool) and ``content``, text.

An assistant's message may have ``tool_calls`` (``[{"id", "type": "function", "function": {"name", "arguments"}}]``,
arguments a JSON text), a tool's message has ``tool_call_id`` and ``name``."""
Tool = dict[str, Any]
"""A tool as OpenAI writes it: ``{"type": "function", "function": {"name", "description", "parameters"}}``."""
ToolCall = dict[str, Any]
"""``{"id", "type": "function", "function": {"name", "arguments"}}``; arguments are JSON text."""


@dataclass(frozen=True, slots=True)
class Row:
    """Holds one example to train on, whatever its original format.

    Attributes:
        messages: The conversation in order; the last message is the assistant's.
        weights: One a message; 1 where the assistant's words carry loss, else 0.
        line: The row's line in its file, from 1.
        tools: The tools that the assistant may call, in OpenAI's form.
        plain: Running text, for continued pre-training: one assistant's message that is no answer to anybody and is
            rendered without a template.
        wanted: For preference training: True for an answer that is wanted, False for one that is not; None elsewhere.
    """

    messages: list[Message]
    weights: list[int]
    line: int
    tools: list[Tool] = field(default_factory=list[Tool])
    plain: bool = False
    wanted: bool | None = None

    @property
    def halves(self) -> tuple[str, str]:
        """Splits running text at the word in its middle: the text for a model to continue, and its continuation."""
        text: str = self.messages[0]["content"]
        cut = text.rfind(" ", 1, len(text) // 2 + 1)
        return (text[:cut], text[cut:]) if cut > 0 else ("", text)


@dataclass(frozen=True, slots=True)
class Preference:
    """Holds a better and a worse answer to the same prompt.

    Attributes:
        prompt: Messages, the last one a user's or a tool's; empty where the row has none.
        chosen: The better answer; the last message is the assistant's.
        rejected: The worse answer, in the same form.
        line: The row's line in its file, from 1.
        tools: As in a ``Row``.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    line: int
    tools: list[Tool] = field(default_factory=list[Tool])


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Holds an answer with a label that says if it was wanted (KTO).

    Attributes:
        prompt: As in a ``Preference``.
        completion: The answer; the last message is the assistant's.
        label: True if the answer was wanted.
        line: The row's line in its file, from 1.
        tools: As in a ``Row``.
    """

    prompt: list[Message]
    completion: list[Message]
    label: bool
    line: int
    tools: list[Tool] = field(default_factory=list[Tool])


Example = Row | Preference | Unpaired
