"""Rows of one shape (the same roles in the same order) rendered by filling their words into what the template wrote.

Running a chat template for every row, and again for every prefix, costs more than tokenizing a short row. Most
templates never look into what is said: they put it between fixed words. So the first row of a shape is rendered with
stand-ins, strings that note how they are joined and stripped; what comes out is the shape, and the rows after that
are joined from its parts. This is exact, not a guess: a stand-in that is asked anything else (its length, a
comparison, another method) ends the attempt, and the shape's rows go through the template one by one. Where a template
asks whether words contain, begin or end with something, the answer no is noted as a guard, and a row for which it
would be yes goes through the template too. So do rows with an empty message, or with anything but roles and words.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, Self

import jinja2
from jinja2 import nodes

from . import limits
from .formats import Row
from .masks import Span
from .rows import Turns
from .spool import row_of
from .templates import ChatTemplate, Rendered, TemplateRefusalError, system_folded

_OPEN, _CLOSE = "\ue0a3", "\ue0a4"
_FILTERS = frozenset(
    ("default", "first", "int", "items", "last", "length", "list", "lower", "map", "rejectattr", "selectattr", "string",
     "tojson", "trim", "upper")
)  # fmt: skip
"""Filters that pass a stand-in on, ask it something, or write it out; the others could hide it from us."""

_HIDING_METHODS = frozenset(("format", "format_map", "join", "replace"))
"""Methods of a template's own strings that would make plain text of a stand-in."""


class _AskedError(Exception):
    """A template asked a stand-in for what only the words can answer."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place for the words of a message, with their white space stripped at the left or right where so noted."""

    message: int
    left: bool = False
    right: bool = False

    def of(self, words: str) -> str:
        if self.left:
            return words.strip() if self.right else words.lstrip()
        return words.rstrip() if self.right else words


_Part = str | _Slot


@dataclass(frozen=True, slots=True)
class _Guard:
    """Something that a template asks of the words in a place, where the shape takes the answer to be no."""

    slot: _Slot
    asks: Callable[[str, Any], bool]
    what: Any

    def holds(self, words: str) -> bool:
        return self.asks(self.slot.of(words), self.what)


class _Words(str):  # noqa: PLW1641, SLOT000  (its hash is set below; strings have no slots of their own)
    """A stand-in for words: a string that notes what becomes of it."""

    parts: tuple[_Part, ...]
    guards: dict[_Guard, None]

    @classmethod
    def of(cls, parts: Sequence[_Part], guards: dict[_Guard, None]) -> Self:
        words = cls("".join(part if isinstance(part, str) else f"{_OPEN}{part.message}{_CLOSE}" for part in parts))
        words.parts, words.guards = _merged(parts), guards
        return words

    def __add__(self, other: str) -> "_Words":
        return _Words.of([*self.parts, *_parts(other)], self.guards)

    def __radd__(self, other: str) -> "_Words":
        return _Words.of([*_parts(other), *self.parts], self.guards)

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return True  # rows with empty words are never filled in

    def __eq__(self, other: object) -> bool:
        if other is None or (type(other) is str and not other):
            return False
        return self._no(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __contains__(self, needle: object) -> bool:
        return self._no(operator.contains, needle)

    def startswith(self, prefix: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (no bounds)
        return self._no(str.startswith, prefix)

    def endswith(self, suffix: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (no bounds)
        return self._no(str.endswith, suffix)

    def strip(self, chars: str | None = None) -> "_Words":
        return self._stripped(chars, left=True, right=True)

    def lstrip(self, chars: str | None = None) -> "_Words":
        return self._stripped(chars, left=True, right=False)

    def rstrip(self, chars: str | None = None) -> "_Words":
        return self._stripped(chars, left=False, right=True)

    def _no(self, asks: Callable[[Any, Any], bool], what: object) -> bool:
        slot = self.parts[0] if len(self.parts) == 1 else None
        if type(what) is not str or not what or not isinstance(slot, _Slot):
            _asked()
        self.guards[_Guard(slot, asks, what)] = None
        return False

    def _stripped(self, chars: str | None, *, left: bool, right: bool) -> "_Words":
        if chars is not None:
            _asked()
        parts = list(self.parts)
        if left:
            _strip_left(parts)
        if right:
            _strip_right(parts)
        return _Words.of(parts, self.guards)


def _strip_left(parts: list[_Part]) -> None:
    """Strip the left end of a text; words are never blank, so it ends at the first of them."""
    while parts:
        part = parts[0]
        if isinstance(part, _Slot):
            parts[0] = replace(part, left=True)
            return
        if stripped := part.lstrip():
            parts[0] = stripped
            return
        parts.pop(0)


def _strip_right(parts: list[_Part]) -> None:
    """The same at the right end."""
    while parts:
        part = parts[-1]
        if isinstance(part, _Slot):
            parts[-1] = replace(part, right=True)
            return
        if stripped := part.rstrip():
            parts[-1] = stripped
            return
        parts.pop()


def _asked(*_args: object, **_options: object) -> NoReturn:
    raise _AskedError


for _name in set(dir(str)) - set(vars(_Words)) - {"__new__", "__init__", "__class__", "__getattribute__", "__doc__",
    "__init_subclass__", "__subclasshook__", "__setattr__", "__delattr__", "__dir__", "__repr__", "__sizeof__",
    "__reduce__", "__reduce_ex__", "__getnewargs__", "__getstate__"}:  # fmt: skip
    setattr(_Words, _name, _asked)
_Words.__hash__ = _asked  # pyright: ignore[reportAttributeAccessIssue]


def _parts(text: str) -> tuple[_Part, ...]:
    if isinstance(text, _Words):
        return text.parts
    if type(text) is not str or _OPEN in text:  # a stand-in that was turned into plain text on its way here
        _asked()
    return (text,)


def _merged(parts: Sequence[_Part]) -> tuple[_Part, ...]:
    merged: list[_Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a shape: so many whole parts, and so many characters of the next."""

    parts: int
    characters: int = 0

    def at(self, filled: Sequence[str]) -> int:
        """Its offset in a filled text."""
        return sum(map(len, filled[: self.parts])) + self.characters


@dataclass(slots=True)
class Shape:
    """What a template makes of all rows with the same roles."""

    parts: tuple[_Part, ...]
    spans: tuple[tuple[_Place, _Place | None], ...]
    prompt: _Place
    guards: tuple[_Guard, ...]
    _fixed: list[str] = field(init=False)
    _slots: list[tuple[int, _Slot]] = field(init=False)

    def __post_init__(self) -> None:
        self._fixed = [part if isinstance(part, str) else "" for part in self.parts]
        self._slots = [(number, part) for number, part in enumerate(self.parts) if isinstance(part, _Slot)]

    def fill(self, words: Sequence[str]) -> list[str] | None:
        """The parts with words in their places.

        None where the template would do something else: a guard says so, or a message has no words.
        """
        for said in words:
            if not said or said.isspace():
                return None
        for guard in self.guards:
            if guard.holds(words[guard.slot.message]):
                return None
        filled = self._fixed.copy()
        for number, slot in self._slots:
            said = words[slot.message]
            filled[number] = slot.of(said) if slot.left or slot.right else said
        return filled

    def trained(self, filled: Sequence[str], length: int) -> list[tuple[int, int]]:
        """Where loss begins and ends in the filled parts, which are so many characters together."""
        return [(start.at(filled), length if end is None else end.at(filled)) for start, end in self.spans]


@dataclass(slots=True)
class Shapes:
    """A chat template that renders most rows by filling in their words; the results are the template's own.

    Args:
        template: In force.
    """

    template: ChatTemplate
    _shapes: dict[Any, Shape | None] = field(default_factory=dict[Any, Shape | None], init=False)
    _run: Callable[..., str] | None = field(init=False)

    def __post_init__(self) -> None:
        self._run = _runner(self.template)

    def rendered(self, row: Row, *, completion_only: bool) -> Rendered:
        """As ``ChatTemplate.rendered``."""
        found = self._filled(row)
        if found is None:
            return self.template.rendered(row, completion_only=completion_only)
        shape, filled = found
        text = "".join(filled)
        if not completion_only:
            return Rendered(text, None)
        return Rendered(text, [Span(start, end) for start, end in shape.trained(filled, len(text))])

    def prompt(self, row: Row) -> str:
        """As ``ChatTemplate.prompt``."""
        found = self._filled(row)
        if found is None:
            return self.template.prompt(row)
        shape, filled = found
        return "".join(filled)[: shape.prompt.at(filled)]

    def of(self, turns: Turns, words: Sequence[str]) -> Shape | None:
        """The shape of rows with these roles and weights; None where they go through the template one by one.

        It is learned from a row that has one, so an answer None may be another one later.
        """
        if turns not in self._shapes:
            row = row_of(turns, words, 0)
            if self._run is None or not _is_plain(row):
                return None
            self._shapes[turns] = self._learned(row)
        return self._shapes[turns]

    def _filled(self, row: Row) -> tuple[Shape, list[str]] | None:
        if self._run is None or not _is_plain(row):
            return None
        words = [message["content"] for message in row.messages]
        shape = self.of((tuple([message["role"] for message in row.messages]), tuple(row.weights)), words)
        filled = shape.fill(words) if shape is not None else None
        return None if shape is None or filled is None else (shape, filled)

    def _learned(self, row: Row) -> Shape | None:
        """The shape of a row; None where there is none, or where filling this row in differs from rendering it."""
        try:
            shape = self._shape(row)
            if shape is None or (filled := shape.fill([message["content"] for message in row.messages])) is None:
                return shape
            return shape if "".join(filled) == self.template.render(row.messages) else None
        except (_AskedError, TemplateRefusalError, jinja2.TemplateError, TypeError, ValueError, LookupError,
                ArithmeticError):  # fmt: skip
            return None

    def _shape(self, row: Row) -> Shape | None:
        guards: dict[_Guard, None] = {}
        said = [
            {"role": message["role"], "content": _Words.of([_Slot(number)], guards)}
            for number, message in enumerate(row.messages)
        ]
        whole = self._parts(said)
        last = max(number for number, message in enumerate(said) if message["role"] == "assistant")
        spans: list[tuple[_Place, _Place | None]] = []
        for number in (number for number, weight in enumerate(row.weights) if weight):
            through = whole if number == len(said) - 1 else self._parts(said[: number + 1])
            start, end = self._asked(said, number, through), _end_of(through, whole)
            if start is None or end is None:
                return None
            spans.append((start, None if through is whole else end))
        prompt = self._asked(said, last, whole)
        return None if prompt is None else Shape(whole, tuple(spans), prompt, tuple(guards))

    def _asked(self, said: list[dict[str, Any]], number: int, through: tuple[_Part, ...]) -> _Place | None:
        return _end_of(self._parts(said[:number], generation_prompt=True), through)

    def _parts(self, said: Sequence[dict[str, Any]], *, generation_prompt: bool = False) -> tuple[_Part, ...]:
        messages = said if self.template.system_role else system_folded(said)
        if self._run is None or not messages:
            _asked()
        with limits.rendering(self.template.name):
            return _parts(self._run(messages=list(messages), add_generation_prompt=generation_prompt))


def _is_plain(row: Row) -> bool:
    if row.tools or row.plain:
        return False
    for message in row.messages:
        words: Any = message.get("content")
        if len(message) != 2 or not isinstance(words, str) or not words or words.isspace():  # noqa: PLR2004  (role, content)
            return False
    return True


def _end_of(prefix: tuple[_Part, ...], whole: tuple[_Part, ...]) -> _Place | None:
    """Where a shape ends that every filled ``whole`` begins with; None where it does not."""
    if not prefix:
        return _Place(0)
    *before, last = prefix
    if len(prefix) > len(whole) or list(whole[: len(before)]) != before:
        return None
    follows = whole[len(before)]
    if last == follows:
        return _Place(len(prefix))
    if isinstance(last, str) and isinstance(follows, str) and follows.startswith(last):
        return _Place(len(before), len(last))
    return None


def _runner(template: ChatTemplate) -> Callable[..., str] | None:
    """The template compiled to run on stand-ins; None where its code could lose track of them."""
    source, environment = template.source()
    tree = environment.parse(source)
    hides = (node for kind in (nodes.Concat, nodes.Mod) for node in tree.find_all(kind))
    if any(isinstance(node, nodes.Concat) or isinstance(node.left, nodes.Const) for node in hides):
        return None
    if any(node.name not in _FILTERS for node in tree.find_all(nodes.Filter)):
        return None
    if any(node.attr in _HIDING_METHODS for node in tree.find_all(nodes.Getattr)):
        return None
    traced = environment.overlay()
    traced.concat = _joined  # pyright: ignore[reportAttributeAccessIssue]  (jinja joins with it, macros and blocks too)
    compiled = traced.from_string(source)
    return partial(compiled.render, tools=None, documents=None, **template.token_texts())


def _joined(pieces: Any) -> str:
    """What jinja joins a text from: as it is where it holds no stand-in."""
    found = list(pieces)
    if not any(isinstance(piece, _Words) for piece in found):
        return "".join(found)
    guards = next(piece.guards for piece in found if isinstance(piece, _Words))
    return _Words.of([part for piece in found for part in _parts(piece)], guards)
