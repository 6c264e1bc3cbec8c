"""The rows of a piece as text, and where in it loss stands.

Rows of roles and words alone are filled into their shape (shapes.py), all of one shape together; the template renders
the others one by one, with the same results.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from .faults import BadLine, BadLines
from .masks import Span
from .receipt import SetFacts
from .rows import Row, Said, Turns
from .shapes import Filled, Shapes
from .spool import row_of
from .templates import ChatTemplate, Rendered, TemplateRefusalError


def _no_spans() -> NDArray[np.int64]:
    return np.zeros((0, 3), dtype=np.int64)


@dataclass(slots=True)
class Texts:
    """The rows of a piece as text.

    Attributes:
        rows: The rows, without those that the template refused.
        lines: Where each stood in its file.
        said: The text of each.
        asked: By row, the prompt as users will write it, where it is wanted.
        spans: Three columns: row, and from and to which byte of it loss is.
        others: Rows whose loss is told in characters, or is all of them.
    """

    rows: Sequence[Said | Row]
    lines: Sequence[int]
    said: list[str]
    asked: dict[int, str] = field(default_factory=dict[int, str])
    spans: NDArray[np.int64] = field(default_factory=_no_spans)
    others: dict[int, Rendered] = field(default_factory=dict[int, Rendered])

    def leave_out(self, places: Sequence[int]) -> None:
        """Forget some rows; those behind them move up."""
        stays = np.ones(len(self.said), dtype=np.bool_)
        stays[list(places)] = False
        left: list[int] = np.flatnonzero(stays).tolist()
        self.rows, self.lines = [self.rows[place] for place in left], [self.lines[place] for place in left]
        self.said = [self.said[place] for place in left]
        moved = {place: number for number, place in enumerate(left)}
        self.asked = {moved[place]: prompt for place, prompt in self.asked.items() if place in moved}
        self.others = {moved[place]: row for place, row in self.others.items() if place in moved}
        self.spans = self.spans[stays[self.spans[:, 0]]]
        self.spans[:, 0] = (np.cumsum(stays) - 1)[self.spans[:, 0]]


class Writing:
    """Turns rows into text.

    Args:
        template: In force.
        completion_only: Loss on the assistant's words only, else on everything.
    """

    def __init__(self, template: ChatTemplate, *, completion_only: bool) -> None:
        self._template, self._completion_only = template, completion_only
        self._shapes, self._control = Shapes(template), _ControlWords(template)

    def texts(
        self,
        rows: Sequence[Said | Row],
        lines: Sequence[int],
        *,
        asks: int,
        in_bytes: bool,
        facts: SetFacts,
        bad: BadLines,
    ) -> Texts:
        """Render rows; what the template refuses is a bad line.

        Args:
            rows: The rows.
            lines: Where each stood in its file.
            asks: Of so many rows, the first, the prompt is wanted too.
            in_bytes: Whether the loss of rows with a shape may be told in bytes.
            facts: What is found out is counted there.
            bad: Takes the lines that are refused.
        """
        texts = Texts(rows, lines, [""] * len(rows))
        facts.control_words += self._control.stand_in(rows)
        refused: list[int] = []
        for place in self._fill(texts, asks, in_bytes=in_bytes):
            try:
                self._render(texts, place, asks=place < asks)
            except TemplateRefusalError as error:
                reason = f"the base's chat template refuses the row: {str(error).rstrip('.')}"
                fix = "change the row's turns, or name another template"
                bad.add(BadLine(lines[place], 1, None, "template", reason, fix))
                refused.append(place)
        if refused:
            texts.leave_out(refused)
        return texts

    def _fill(self, texts: Texts, asks: int, *, in_bytes: bool) -> list[int]:
        """Fill in the rows that have a shape; the places of the others."""
        by_turns: dict[Turns, tuple[list[int], list[list[str]]]] = {}
        left: list[int] = []
        for place, row in enumerate(texts.rows):
            if isinstance(row, Row):
                left.append(place)
                continue
            turns, said = row
            places, words = by_turns.get(turns) or by_turns.setdefault(turns, ([], []))
            places.append(place)
            words.append(said)
        spans = [texts.spans]
        for turns, (places, words) in by_turns.items():
            shape = self._shapes.of(turns, words)
            if shape is None:
                left += places
                continue
            if not shape.fit(words):
                fits = list(map(shape.fits, words))
                left += [place for place, fit in zip(places, fits, strict=True) if not fit]
                places[:] = compress(places, fits)
                words[:] = compress(words, fits)
            if places:
                spans.append(self._filled(texts, places, shape.filled(words), asks, in_bytes=in_bytes))
        texts.spans = np.concatenate(spans)
        return sorted(left)

    def _filled(
        self, texts: Texts, places: list[int], filled: Filled, asks: int, *, in_bytes: bool
    ) -> NDArray[np.int64]:
        """Put rows of one shape in their places; their loss, where it is told in bytes."""
        for place, text in zip(places, filled.texts, strict=True):
            texts.said[place] = text
        asked = int(np.searchsorted(places, asks))
        texts.asked |= zip(places[:asked], filled.prompts(asked), strict=True)
        if not self._completion_only:
            texts.others |= {place: Rendered(texts.said[place], None) for place in places}
            return _no_spans()
        spans = filled.spans(in_bytes=in_bytes)
        if not in_bytes:
            told: list[list[list[int]]] = spans.tolist()
            for place, row in zip(places, told, strict=True):
                texts.others[place] = Rendered(texts.said[place], [Span(start, end) for start, end in row])
            return _no_spans()
        numbers = np.repeat(np.array(places, dtype=np.int64), spans.shape[1])
        return np.column_stack([numbers, spans.reshape(-1, 2)])

    def _render(self, texts: Texts, place: int, *, asks: bool) -> None:
        """Let the template render a row."""
        row = texts.rows[place]
        if not isinstance(row, Row):
            row = row_of(*row, texts.lines[place])
        rendered = self._template.rendered(row, completion_only=self._completion_only)
        if asks:
            texts.asked[place] = self._template.prompt(row)
        texts.others[place], texts.said[place] = rendered, rendered.text


class _ControlWords:
    """The base's control tokens as they are written; in a row's text they read as the tokens themselves."""

    def __init__(self, template: ChatTemplate) -> None:
        words = [template.token_text(number) for number in sorted(template.special_tokens)]
        self._pattern = re.compile("|".join(map(re.escape, words)))
        self._begins = {word[:2] for word in words if word}

    def stand_in(self, rows: Iterable[Said | Row]) -> int:
        """In how many rows one stands; in most pieces in none, and one look at all of it tells."""
        said = [
            "\0".join([message["content"] for message in row.messages] if isinstance(row, Row) else row[1])
            for row in rows
        ]
        whole = "\0".join(said)
        if not any(begin in whole for begin in self._begins) or not self._pattern.search(whole):
            return 0
        return sum(self._pattern.search(text) is not None for text in said)
