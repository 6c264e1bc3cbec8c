"""Learns the written form of tool calls from a chat template, and reads calls out of an answer in that form.

There are as many forms as families: JSON between marks (Hermes, Mistral), JSON behind a name (gpt-oss, Kimi), one mark
for each argument (GLM, Qwen3-Coder), Python's calls (LFM2). No table of families is kept. Two calls with known names,
keys and values are rendered once, and the text around those words is the form. White space is matched loosely and
numbers in marks (the ``0`` of Kimi's ``functions.name:0``) match any number.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

FIRST, SECOND = "celoraCalled", "celoraAgain"
TEXT_KEY, NUMBER_KEY, TEXT, NUMBER = "celoraKey", "celoraOther", "celoraValue", 70411
ARGUMENTS: Mapping[str, Any] = {TEXT_KEY: TEXT, NUMBER_KEY: NUMBER}
IDS = ("celoraId1", "celoraId2")
"""Nine letters and digits each, so that a template that shortens ids keeps them."""

_NAME = re.compile(r"[\w.\-/]+")
_MOST_CALLS = 64
_ENDS_OF_MARKS = ">])}\n"


@dataclass(frozen=True, slots=True)
class Call:
    """Holds a tool call.

    Attributes:
        name: Name of the function.
        arguments: Parsed JSON; in forms without quotes each value is text.
    """

    name: str
    arguments: Any

    def __str__(self) -> str:
        return f"{self.name} {json.dumps(self.arguments, sort_keys=True, ensure_ascii=False)}"


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Holds the marks of arguments that are written one by one."""

    key_end: re.Pattern[str]
    quote: str
    between: re.Pattern[str]
    end: re.Pattern[str]

    def read(self, text: str, at: int) -> tuple[dict[str, Any], int] | None:
        """Return the arguments that begin at a position, and the position where they end."""
        found: dict[str, Any] = {}
        if end := self.end.match(text, at):
            return found, end.end()
        while key := self.key_end.search(text, at):
            read = self._value(text, key.end())
            if read is None:
                break
            found[text[at : key.start()].strip()], behind = read
            more, end = self.between.match(text, behind), self.end.match(text, behind)
            if end and (more is None or end.end() > more.end()):
                return found, end.end()
            if more is None:
                break
            at = more.end()
        return None

    def _value(self, text: str, at: int) -> tuple[str, int] | None:
        """Return the value that begins at a position, and the position where it ends."""
        if self.quote and text.startswith(self.quote, at):
            start = at + len(self.quote)
            stop = text.find(self.quote, start)
            return (text[start:stop], stop + len(self.quote)) if stop >= 0 else None
        ends = [one.start() for pattern in (self.between, self.end) if (one := pattern.search(text, at))]
        return (_plain(text[at : min(ends)].strip()), min(ends)) if ends else None


def _plain(value: str) -> str:
    """Return a value without quotes as text, JSON in one spelling."""
    try:
        return json.dumps(json.loads(value), sort_keys=True, ensure_ascii=False)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class CallForm:
    """Describes the text around the names and arguments of calls.

    Attributes:
        opening: Text before the first name.
        next_one: Text between the end of a call's arguments and the next name; None where at most one call is written.
        middle: Text between a name and its arguments.
        closing: Text after the last call, as it is written.
        pairs: The marks of single arguments; None where the arguments are JSON.
        no_name: A word in the position of a name that is no name. Behind the words that it announces, a call begins
            as behind another call.
    """

    opening: re.Pattern[str]
    next_one: re.Pattern[str] | None
    middle: re.Pattern[str]
    closing: str
    pairs: _Pairs | None
    no_name: str = ""

    def read(self, text: str) -> tuple[list[Call], str, str]:
        """Return the calls of an answer, the text before the calls, and the text after them."""
        calls: list[Call] = []
        before, at = text, 0
        while len(calls) < _MOST_CALLS:
            found = self._next(text, at, first=not calls)
            if found is None:
                break
            start, call, end = found
            if not calls:
                before = text[:start]
            calls.append(call)
            at = end
        if not calls:
            return [], text, ""
        behind = text[at:].strip()
        return calls, before, behind.removeprefix(self.closing.strip()).strip()

    def _next(self, text: str, at: int, *, first: bool) -> tuple[int, Call, int] | None:
        opened = None if first or self.next_one is None else self.next_one.match(text, at)
        beside = self.next_one.finditer(text, at) if first and self.no_name and self.next_one else ()
        for start in [opened] if opened else chain(self.opening.finditer(text, at), beside):
            name = _NAME.match(text, start.end())
            middle = self.middle.match(text, name.end()) if name else None
            if name is None or middle is None or name[0] == self.no_name:
                continue
            arguments = self.pairs.read(text, middle.end()) if self.pairs else _json(text, middle.end())
            if arguments is not None:
                return start.start(), Call(name[0], arguments[0]), arguments[1]
        return None


def _json(text: str, at: int) -> tuple[Any, int] | None:
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, at)
    except ValueError:
        return None
    return (value, end) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def learn(one: str, two: str | None, *, no_name: str = "") -> CallForm | None:
    """Learn the form from the answers that a template writes.

    Args:
        one: An answer of one call, ``FIRST`` with ``ARGUMENTS``, without its end token.
        two: An answer of two calls, ``FIRST`` and ``SECOND`` with the same arguments; None where the template writes
            one call at most.
        no_name: A word that answers in words begin with, where a name would stand (functionary's ``all``).
    """
    key = one.find(TEXT_KEY)
    name = one.rfind(FIRST, 0, key)
    if min(key, name) < 0:
        return None
    opening = one[:name]
    brace = one.find("{", name)
    read = _json(one, brace) if 0 <= brace <= key else None
    if read is not None and read[0] == ARGUMENTS:
        middle, end, pairs = one[name + len(FIRST) : brace], read[1], None
    else:
        middle, end = one[name + len(FIRST) : key], one.find(str(NUMBER), key) + len(str(NUMBER))
        pairs = _learn_pairs(one, two, key)
        if pairs is None:
            return None
        ended = pairs.end.match(one, end)
        end = ended.end() if ended else end
    between = None
    if two is not None:
        between = _between(two, pairs, middle)
    form = CallForm(_named(opening, FIRST), between, _loose(middle), one[end:], pairs, no_name)
    return form if form.read(one)[0] else None


def _between(two: str, pairs: _Pairs | None, middle: str) -> re.Pattern[str] | None:
    """Return the pattern between the first call's arguments and the second call's name."""
    first = two.find(FIRST)
    last = max(two.rfind(FIRST), first)
    begin = _loose(middle).match(two, last + len(FIRST))
    if first < 0 or begin is None:
        return None
    read = pairs.read(two, begin.end()) if pairs else _json(two, begin.end())
    second = two.rfind(SECOND)
    if read is None or second < read[1]:
        return None
    literal = two[read[1] : second]
    return _named(literal, SECOND) if literal.strip() else re.compile(r"\s*")


def _named(literal: str, name: str) -> re.Pattern[str]:
    """Return a pattern of the text before a name; if the name occurs in that text too, any name matches there.

    An empty text means the beginning of the answer.
    """
    head, found, tail = literal.rpartition(name)
    if found:
        return re.compile(_loosely(head) + _NAME.pattern + _loosely(tail))
    return re.compile(_loosely(literal) if literal.strip() else r"\A\s*")


def _learn_pairs(one: str, two: str | None, key: int) -> _Pairs | None:
    text = one.find(TEXT, key)
    other = one.find(NUMBER_KEY, text)
    number = one.find(str(NUMBER), other)
    if min(text, other, number) < 0:
        return None
    of_text, between = one[key + len(TEXT_KEY) : text], one[text + len(TEXT) : other]
    of_number, tail = one[other + len(NUMBER_KEY) : number], one[number + len(str(NUMBER)) :]
    quote = of_text.removeprefix(of_number) if of_text.startswith(of_number) else ""
    if quote and not between.startswith(quote):
        return None
    end = tail
    if two is not None:
        first = two.find(str(NUMBER))
        follows = two[first + len(str(NUMBER)) : two.find(SECOND, first)]
        end = _common(tail, follows) or tail
    if not (of_number.strip() and between.removeprefix(quote).strip() and end.strip()):
        return None
    return _Pairs(_loose(of_number), quote, _loose(between.removeprefix(quote)), _loose(end))


def _common(one: str, other: str) -> str:
    """Return the common beginning of two texts, up to the last complete mark: no mark is cut in two."""
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[: max((one.rfind(mark, 0, length) for mark in _ENDS_OF_MARKS), default=-1) + 1]


def _loose(literal: str) -> re.Pattern[str]:
    return re.compile(_loosely(literal))


def _loosely(literal: str) -> str:
    """Return a pattern of a literal: white space, numbers and the example ids match any white space, number and id."""
    words = re.split(r"(celoraId[12]|\d+|\s+)", literal)
    return "".join(
        r"[\w.:\-]+" if word in IDS else r"\d+" if word.isdecimal() else r"\s*" if word.isspace() else re.escape(word)
        for word in words
    )
