"""The canonical rows: what every format of a dataset is turned into, and all that the rest of celora knows of data."""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""As chat templates take them: ``role`` (system, user, assistant, tool) and ``content``, text. An assistant's may have
``tool_calls`` (``[{"id", "type": "function", "function": {"name", "arguments"}}]``, arguments a JSON text), a tool's
has ``tool_call_id`` and ``name``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example to learn from, whatever format it came in.

    Attributes:
        messages: In order; the last one is the assistant's.
        weights: One a message; 1 where the assistant's words carry loss, else 0.
        line: Where it stood in its file, from 1.
        tools: What the assistant may call, as OpenAI's ``tools``.
        plain: Running text, for continued pre-training: one assistant's message that is no answer to anybody and is
            rendered without a template.
    """

    messages: list[Message]
    weights: list[int]
    line: int
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    plain: bool = False

    @property
    def halves(self) -> tuple[str, str]:
        """Running text cut at the word in its middle: what a model is asked to continue, and how the text goes on."""
        text: str = self.messages[0]["content"]
        cut = text.rfind(" ", 1, len(text) // 2 + 1)
        return (text[:cut], text[cut:]) if cut > 0 else ("", text)


@dataclass(frozen=True, slots=True)
class Preference:
    """A better and a worse answer to the same prompt.

    Attributes:
        prompt: Messages, the last one a user's or a tool's; empty where the rows have none.
        chosen: The better answer; the last message is the assistant's.
        rejected: The worse one, alike.
        line: Where it stood in its file, from 1.
        tools: As a ``Row``'s.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    line: int
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Unpaired:
    """An answer and whether it was wanted (KTO).

    Attributes:
        prompt: As a ``Preference``'s.
        completion: The answer; the last message is the assistant's.
        label: Whether it was wanted.
        line: Where it stood in its file, from 1.
        tools: As a ``Row``'s.
    """

    prompt: list[Message]
    completion: list[Message]
    label: bool
    line: int
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


Example = Row | Preference | Unpaired


Turns = tuple[tuple[str, ...], tuple[int, ...]]
"""The roles and weights of a row's messages."""

Said = tuple[Turns, list[str]]
"""A row of roles and words alone."""
