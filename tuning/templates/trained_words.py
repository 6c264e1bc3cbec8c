"""Checks that the words of an assistant's turn come out of the template: thoughts, words, calls and their arguments.

A template may drop what a row says. DeepSeek-R1's drops the thoughts of every answer, Qwen3's of all but the last;
others write only the first of several calls, or a call without its name. A model that is trained on such a turn learns
to leave the same out. The words are searched in the turn's own span, since the same words may stand in the question,
in a declaration or in a tool's result.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..rows.row import Message

THINK_BEGIN, THINK_END = "<think>", "</think>"
THOUGHTS = ("reasoning_content", "thinking")
"""Keys under which a message holds its thoughts apart from its words."""


@dataclass(frozen=True, slots=True)
class OwnWords:
    """Holds the words of one turn.

    Attributes:
        thoughts: The turn's reasoning; empty where there is none.
        words: The turn's answer in words; empty beside calls alone.
        calls: Name and parsed arguments of each call.
    """

    thoughts: str
    words: str
    calls: tuple[tuple[str, Any], ...]

    def missing(self, span: str) -> str:
        """Return in words the part of the turn that is not in its span; empty where all of it is."""
        if self.thoughts not in span:
            return "the thoughts of an answer"
        if self.calls and not (self.words in span and self._calls_in(span)):
            return "a tool call, or the words beside one"
        return "" if self.words in span else "the words of an answer"

    def end_in(self, span: str) -> int:
        """Return the earliest position in the span where the last of these words ends."""
        texts = (self.thoughts, self.words, *(name for name, _ in self.calls))
        return max(span.find(text) + len(text) for text in texts)

    def _calls_in(self, span: str) -> bool:
        names = [name for name, _ in self.calls]
        if any(span.count(name) < names.count(name) for name in names):
            return False
        return all(_written(leaf, span) for _, arguments in self.calls for leaf in _leaves(arguments))


def own_words(message: Message) -> OwnWords:
    """Return the words of an assistant's message, with the thoughts in its content separated."""
    content = str(message.get("content") or "")
    thoughts = next((str(message[key]) for key in THOUGHTS if message.get(key)), "")
    if not thoughts and THINK_END in content:
        before, _, content = content.rpartition(THINK_END)
        thoughts = before.rpartition(THINK_BEGIN)[2]
    calls = tuple(
        (str(call["function"]["name"]), _parsed(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    )
    return OwnWords(thoughts.strip(), content.strip(), calls)


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every key and every scalar of nested arguments."""
    if isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield str(key)  # pyright: ignore[reportUnknownArgumentType]
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _leaves(item)
    else:
        yield value


def _written(leaf: Any, span: str) -> bool:
    """Return whether a scalar occurs in a span, as JSON, as Python or as it is."""
    if isinstance(leaf, str):
        forms = {leaf, json.dumps(leaf)[1:-1], json.dumps(leaf, ensure_ascii=False)[1:-1], repr(leaf)[1:-1]}
    else:
        forms = {json.dumps(leaf), repr(leaf)}
    return any(form in span for form in forms)
