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
import numpy as np
from jinja2 import nodes
from numpy.typing import NDArray

from . import limits
from .formats import Row
from .rows import Turns
from .spool import row_of
from .templates import ChatTemplate, TemplateRefusalError, system_folded

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

    def of_all(self, words: Sequence[str]) -> Sequence[str]:
        return list(map(self.of, words)) if self.left or self.right else words


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
    """A place in a shape: so many whole parts, and so many characters of the next, which the template wrote."""

    parts: int
    characters: int = 0


@dataclass(slots=True)
class Shape:
    """What a template makes of all rows with the same roles."""

    parts: tuple[_Part, ...]
    spans: tuple[tuple[_Place, _Place | None], ...]
    prompt: _Place
    guards: tuple[_Guard, ...]

    def fits(self, words: Sequence[str]) -> bool:
        """Whether a row's words can be filled in.

        They cannot where the template would do something else: a guard says so, or a message has no words.
        """
        for said in words:
            if not said or said.isspace():
                return False
        return not any(guard.holds(words[guard.slot.message]) for guard in self.guards)

    def fit(self, rows: Sequence[Sequence[str]]) -> bool:
        """Whether it is plain that all rows fit."""
        if self.guards or not all(map(all, rows)):
            return False
        return not any(any(map(str.isspace, words)) for words in rows)

    def filled(self, rows: Sequence[Sequence[str]]) -> "Filled":
        """Rows that fit, filled in."""
        return Filled(self, rows)


class Filled:
    """Rows of one shape with their words in their places.

    Args:
        shape: Of all of them.
        rows: The words of each.

    Attributes:
        texts: The rows as the template renders them.
    """

    def __init__(self, shape: Shape, rows: Sequence[Sequence[str]]) -> None:
        self._shape, self._count = shape, len(rows)
        words = list(zip(*rows, strict=True))
        self._columns: list[Sequence[str]] = [
            [part] * len(rows) if isinstance(part, str) else part.of_all(words[part.message]) for part in shape.parts
        ]
        self.texts = self._joined(self._columns, len(rows))

    def prompts(self, count: int) -> list[str]:
        """The prompts of the first rows, as users will write them."""
        place = self._shape.prompt
        columns = [column[:count] for column in self._columns[: place.parts]]
        if place.characters:
            columns.append([self._before(place)] * count)
        return self._joined(columns, count)

    def spans(self, *, in_bytes: bool) -> NDArray[np.int64]:
        """Where loss begins and ends: by row and span, in characters or in bytes (UTF-8)."""
        ends = np.zeros((len(self._columns) + 1, self._count), dtype=np.int64)
        for number, (part, column) in enumerate(zip(self._shape.parts, self._columns, strict=True)):
            if isinstance(part, str):
                ends[number + 1] = ends[number] + _size(part, in_bytes=in_bytes)
            else:
                ends[number + 1] = ends[number] + _sizes(column, in_bytes=in_bytes)

        def at(place: _Place | None) -> NDArray[np.int64]:
            return ends[-1] if place is None else ends[place.parts] + _size(self._before(place), in_bytes=in_bytes)

        edges = [at(place) for span in self._shape.spans for place in span]
        return np.stack(edges, axis=1).reshape(self._count, -1, 2) if edges else np.zeros((self._count, 0, 2), np.int64)

    def _before(self, place: _Place) -> str:
        """What the template wrote between the whole parts before a place and the place."""
        part = self._shape.parts[place.parts] if place.characters else ""
        return part[: place.characters] if isinstance(part, str) else ""

    @staticmethod
    def _joined(columns: Sequence[Sequence[str]], count: int) -> list[str]:
        return list(map("".join, zip(*columns, strict=True))) if columns else [""] * count


def _size(text: str, *, in_bytes: bool) -> int:
    return len(text.encode() if in_bytes else text)


def _sizes(texts: Sequence[str], *, in_bytes: bool) -> NDArray[np.int64]:
    in_characters = not in_bytes or all(map(str.isascii, texts))
    sizes = map(len, texts) if in_characters else (len(text.encode()) for text in texts)
    return np.fromiter(sizes, dtype=np.int64, count=len(texts))


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

    def of(self, turns: Turns, rows: Sequence[Sequence[str]]) -> Shape | None:
        """The shape of rows with these roles and weights; None where they go through the template one by one.

        It is learned from a row that has words everywhere, so an answer None may be another one later.

        Args:
            turns: The roles and weights.
            rows: The words of rows that have them.
        """
        if turns not in self._shapes:
            said = next((words for words in rows if all(text and not text.isspace() for text in words)), None)
            if self._run is None or said is None:
                return None
            self._shapes[turns] = self._learned(row_of(turns, said, 0))
        return self._shapes[turns]

    def _learned(self, row: Row) -> Shape | None:
        """The shape of a row; None where there is none, or where filling this row in differs from rendering it."""
        try:
            shape = self._shape(row)
            words = [message["content"] for message in row.messages]
            if shape is None or not shape.fits(words):
                return shape
            return shape if shape.filled([words]).texts == [self.template.render(row.messages)] else None
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
