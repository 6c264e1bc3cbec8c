"""A piece of a set of rows as tokens: rendered, tokenized in one batch, cut to length, masked, all in flat arrays.

Nearly all rows are words filled into a shape (shapes.py) whose tokens' places follow from the tokens' bytes
(token_bytes.py); the template and the tokenizer's offsets are asked for the others, with the same results.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .faults import BadLine, BadLines
from .masks import Span, trained_ranges
from .prepared import prompt_line
from .receipt import KEPT_LINES, SetFacts
from .rows import Row, Said, Turns
from .shapes import Shapes
from .spool import Spool, row_of
from .templates import ChatTemplate, Rendered, TemplateRefusalError, backend
from .token_bytes import Ranges, TokenBytes

if TYPE_CHECKING:
    from tokenizers import Encoding

BOUNDARY_ROWS = 100
"""So many training rows are checked for a token that prompt and answer share; held-out rows are all checked."""

LONG_BYTES = 4 << 20
"""A longer row is no copy's: each of them would need the memory for it."""

CACHED_WORDS = 100_000
"""Words of which the tokenizer remembers the tokens; its own 10,000 are full after some thousand rows, and then a ninth
of its time goes into words that it has seen."""

Cut = tuple[int, int]
"""From which row of a set, and to which."""


@dataclass(slots=True)
class Done:
    """A piece as tokens: the rows that stay, one after the other, and what was found out."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    prompts: list[str]
    facts: SetFacts
    bad: BadLines


@dataclass(slots=True)
class _Texts:
    """The rows of a piece as text.

    Attributes:
        rows: Each row and its line.
        said: Its text.
        asked: By row, the prompt as users will write it, where it is wanted.
        spans: Row, and from and to which byte of it loss is.
        others: Rows whose loss is told in characters, or is all of them.
    """

    rows: list[tuple[Said | Row, int]] = field(default_factory=list[tuple[Said | Row, int]])
    said: list[str] = field(default_factory=list[str])
    asked: dict[int, str] = field(default_factory=dict[int, str])
    spans: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    others: dict[int, Rendered] = field(default_factory=dict[int, Rendered])


class Pieces:
    """Turns pieces of a set into tokens.

    Args:
        template: In force.
        spool: The rows.
        numbers: Those of the set.
        max_length: Rows are cut to so many tokens.
        completion_only: Loss on the assistant's words only, else on everything.
        held_out: Whether the rows' prompts are wanted too.
        large: Whether so many rows come that a table of the tokens' bytes is worth its making.
    """

    def __init__(
        self,
        template: ChatTemplate,
        spool: Spool,
        numbers: NDArray[np.int64],
        *,
        max_length: int,
        completion_only: bool,
        held_out: bool,
        large: bool,
    ) -> None:
        self._template, self._spool, self._numbers = template, spool, numbers
        self._max_length, self._completion_only, self._held_out = max_length, completion_only, held_out
        self._shapes, self._control = Shapes(template), _ControlWords(template)
        self._inner = backend(template.tokenizer)
        self._bytes = TokenBytes.of(self._inner, template.special_tokens) if large else None
        self._tails: dict[str, list[int]] = {}
        self._cuts = [
            token.content
            for number, token in self._inner.get_added_tokens_decoder().items()
            if number in template.special_tokens and not (token.lstrip or token.rstrip or token.single_word)
        ]
        resize = getattr(self._inner.model, "_resize_cache", None)  # its Python part says nothing of the cache
        if large and resize:
            resize(CACHED_WORDS)

    def warm_up(self) -> None:
        """Learn the shape of the first row, which copies of this process then have."""
        self._texts((0, 1), SetFacts(), BadLines())

    def short_piece(self, cut: Cut) -> Done | None:
        """A piece; None where it is too long for a copy."""
        first, end = cut
        if int(self._spool.size_bytes(self._numbers[first:end]).sum()) > LONG_BYTES:
            return None
        return self.piece(cut)

    def piece(self, cut: Cut) -> Done:
        """Render, tokenize, mask and cut the rows of a piece."""
        facts, bad = SetFacts(), BadLines()
        texts = self._texts(cut, facts, bad)
        if not texts.said:
            return Done(*_nothing(), [], facts, bad)
        ids, ranges, begins = self._tokens(texts)
        counts = np.array([len(row) for row in ids], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(counts.sum()))
        prompts = self._prompts(texts, ids, begins, facts)
        kept = self._kept(counts, ranges, prompts, facts)
        self._count(texts, counts, ranges, kept, facts)
        stay: list[int] = np.flatnonzero(kept).tolist() if self._held_out else []
        told = [self._told(texts, place, prompts[place]) for place in stay]
        return Done(*self._arrays(flat, counts, ranges, kept), told, facts, bad)

    def _texts(self, cut: Cut, facts: SetFacts, bad: BadLines) -> _Texts:
        """Render the rows; what the template refuses is a bad line."""
        texts, numbers = _Texts(), self._numbers[slice(*cut)]
        chosen: list[int] = numbers.tolist()
        for index, number, said in zip(range(*cut), chosen, self._spool.said(numbers), strict=True):
            line = self._spool.line(number)
            asks = self._held_out or index < BOUNDARY_ROWS
            try:
                if isinstance(said, Row):
                    facts.control_words += self._control.stand_in([message["content"] for message in said.messages])
                    self._render(said, texts, asks=asks)
                else:
                    facts.control_words += self._control.stand_in(said[1])
                    if not self._fill(*said, texts, asks=asks):
                        self._render(row_of(*said, line), texts, asks=asks)
            except TemplateRefusalError as error:
                reason = f"the base's chat template refuses the row: {str(error).rstrip('.')}"
                bad.add(BadLine(line, 1, None, "template", reason, "change the row's turns, or name another template"))
                continue
            texts.rows.append((said, line))
        return texts

    def _fill(self, turns: Turns, words: list[str], texts: _Texts, *, asks: bool) -> bool:
        """Fill a row's words into its shape; False where there is none."""
        shape = self._shapes.of(turns, words)
        filled = shape.fill(words) if shape else None
        if shape is None or filled is None:
            return False
        text, place = "".join(filled), len(texts.said)
        spans = shape.trained(filled, len(text)) if self._completion_only else None
        if asks:
            texts.asked[place] = text[: shape.prompt.at(filled)]
        texts.said.append(text)
        if spans is None or self._bytes is None:
            texts.others[place] = Rendered(text, None if spans is None else [Span(*span) for span in spans])
        elif text.isascii():
            texts.spans.extend([(place, start, end) for start, end in spans])
        else:
            texts.spans.extend((place, len(text[:start].encode()), len(text[:end].encode())) for start, end in spans)
        return True

    def _render(self, row: Row, texts: _Texts, *, asks: bool) -> None:
        rendered = self._template.rendered(row, completion_only=self._completion_only)
        place = len(texts.said)
        if asks:
            texts.asked[place] = self._template.prompt(row)
        texts.others[place] = rendered
        texts.said.append(rendered.text)

    def _tokens(self, texts: _Texts) -> tuple[list[list[int]], Ranges, dict[int, int]]:
        """Each row's tokens, which of them carry loss, and of rows told by their bytes where the last answer begins."""
        said, asks = texts.said, {place for place, row in texts.others.items() if row.spans is not None}
        ids: list[list[int]] = [[]] * len(said)
        quick = [place for place in range(len(said)) if place not in asks]
        encodings = self._inner.encode_batch_fast([said[place] for place in quick], add_special_tokens=False)
        for place, encoding in zip(quick, encodings, strict=True):
            ids[place] = encoding.ids
        del encodings
        ranges = [(place, 0, len(ids[place])) for place, row in texts.others.items() if row.spans is None]
        found = [np.array(ranges, dtype=np.int64).reshape(-1, 3)]
        begins: dict[int, int] = {}
        if texts.spans:
            known, unsure = self._by_bytes(texts, ids)
            found.append(known)
            asks |= unsure
            begins = dict(zip(known[:, 0].tolist(), known[:, 1].tolist(), strict=True)) if self._held_out else {}
        for place, encoding in self._offsets(said, sorted(asks)):
            ids[place], spans = encoding.ids, self._spans(texts, place)
            end_token, special = self._template.end_token, self._template.special_tokens
            trained = trained_ranges(encoding, ids[place], said[place], spans, special=special, end_token=end_token)
            found.append(np.array([(place, *one) for one in trained], dtype=np.int64).reshape(-1, 3))
        return ids, Ranges(*np.concatenate(found).T), begins

    def _offsets(self, said: list[str], places: list[int]) -> "Iterable[tuple[int, Encoding]]":
        encodings = self._inner.encode_batch([said[place] for place in places], add_special_tokens=False)
        return zip(places, encodings, strict=True)

    def _by_bytes(self, texts: _Texts, ids: list[list[int]]) -> tuple[NDArray[np.int64], set[int]]:
        """Loss of the rows that were filled into a shape: row, first and end; and the rows whose offsets must tell."""
        assert self._bytes is not None  # noqa: S101  (spans in bytes are only made where it is)
        spans = np.array(texts.spans, dtype=np.int64)
        places = np.unique(spans[:, 0])
        chosen: list[int] = places.tolist()
        spans[:, 0] = np.searchsorted(places, spans[:, 0])
        counts = np.array([len(ids[place]) for place in chosen], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(ids[place] for place in chosen), np.int32, count=int(counts.sum()))
        ranges, held = self._bytes.ranges(flat, counts, [texts.said[place] for place in chosen], spans)
        if held.mean() < 0.5:  # noqa: PLR2004  (a tokenizer that changes what it reads: the offsets tell at once)
            self._bytes = None
        good = held[ranges.rows]
        known = np.stack([places[ranges.rows], ranges.firsts, ranges.ends], axis=1)[good]
        return known, set(places[~held].tolist())

    @staticmethod
    def _spans(texts: _Texts, place: int) -> list[Span] | None:
        """What carries loss in a row, in characters."""
        if place in texts.others:
            return texts.others[place].spans
        said, spans = texts.said[place].encode(), [span for row, *span in texts.spans if row == place]
        return [Span(len(said[:start].decode()), len(said[:end].decode())) for start, end in spans]

    def _prompts(
        self, texts: _Texts, ids: list[list[int]], begins: dict[int, int], facts: SetFacts
    ) -> dict[int, list[int]]:
        """The tokens of the prompts that are wanted, by row."""
        starts = {place: start for place, start, _ in texts.spans}  # of the last answer with loss
        prompts = {
            place: prompt
            for place, begin in begins.items()
            if starts[place] == len(texts.asked[place].encode())
            and (prompt := self._alike(texts.asked[place], ids[place], begin))
        }
        left = [place for place in texts.asked if place not in prompts]
        encodings = self._inner.encode_batch_fast([texts.asked[place] for place in left], add_special_tokens=False)
        prompts |= {place: encoding.ids for place, encoding in zip(left, encodings, strict=True)}
        facts.boundary_checked += len(prompts)
        facts.boundary_merged += sum(ids[place][: len(prompt)] != prompt for place, prompt in prompts.items())
        return prompts

    def _alike(self, prompt: str, ids: list[int], begin: int) -> list[int]:
        """The tokens of a prompt that a row begins with, where they are plainly the row's own; else none.

        A control token is cut out before anything else is looked at, so what stands on either side does not count for
        the other. The prompt is the row up to its last control token, and some more words ("assistant", say).
        """
        cut = max((prompt.rfind(word) + len(word) for word in self._cuts if word in prompt), default=0)
        words = self._tails.get(tail := prompt[cut:])
        if words is None:
            words = self._tails[tail] = self._inner.encode(tail, add_special_tokens=False).ids if cut else []
        at = begin - len(words)
        special = self._template.special_tokens
        return ids[:begin] if cut and at > 0 and ids[at - 1] in special and ids[at:begin] == words else []

    def _kept(
        self, counts: NDArray[np.int64], ranges: Ranges, prompts: dict[int, list[int]], facts: SetFacts
    ) -> NDArray[np.bool_]:
        """Which rows stay: those of which something is left to learn, and to ask where they are held out."""
        kept = np.zeros(len(counts), dtype=np.bool_)
        kept[ranges.rows[(ranges.firsts < ranges.ends) & (ranges.firsts < self._max_length)]] = True
        if self._held_out:
            kept[[place for place, prompt in prompts.items() if len(prompt) >= self._max_length]] = False
        facts.dropped += int((~kept).sum())
        return kept

    def _count(
        self, texts: _Texts, counts: NDArray[np.int64], ranges: Ranges, kept: NDArray[np.bool_], facts: SetFacts
    ) -> None:
        facts.lengths.frombytes(counts.tobytes())
        over = np.maximum(counts - self._max_length, 0)
        cut = np.maximum(ranges.ends - np.maximum(ranges.firsts, self._max_length), 0)
        facts.truncated += int((over > 0).sum())
        facts.cut_tokens += int(over.sum())
        facts.cut_answers += len(np.unique(ranges.rows[cut > 0]))
        facts.cut_trained_tokens += int(cut.sum())
        dropped: list[int] = np.flatnonzero(~kept)[:KEPT_LINES].tolist()
        facts.dropped_lines.extend(texts.rows[place][1] for place in dropped)
        for rendered in texts.others.values():
            facts.marked_turns += rendered.marked_turns
            facts.prompt_differs += rendered.prompt_differs
        if not self._template.system_role:
            facts.system_folded += sum(_first_role(row) == "system" for row, _ in texts.rows)

    def _arrays(
        self, flat: NDArray[np.int32], counts: NDArray[np.int64], ranges: Ranges, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
        """Tokens, mask and lengths of the rows that stay, cut to length."""
        begin = np.cumsum(counts) - counts
        ends = np.minimum(ranges.ends, self._max_length)
        real = ranges.firsts < ends
        at, size = begin[ranges.rows[real]], len(flat) + 1
        opened = np.bincount(at + ranges.firsts[real], minlength=size) - np.bincount(at + ends[real], minlength=size)
        mask = (np.cumsum(opened)[:-1] > 0).astype(np.uint8)
        lengths = np.minimum(counts, self._max_length)
        if not kept.all() or (lengths < counts).any():
            stays = np.repeat(kept, counts) & (np.arange(len(flat)) - np.repeat(begin, counts) < self._max_length)
            flat, mask, lengths = flat[stays], mask[stays], lengths[kept]
        return flat, mask, lengths

    def _told(self, texts: _Texts, place: int, prompt: list[int]) -> str:
        """A held-out row's line in its file."""
        said, line = texts.rows[place]
        row = said if isinstance(said, Row) else row_of(*said, line)
        return prompt_line(prompt, _readable(row), self._template.reference(row), line)


def _nothing() -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)


def _first_role(row: Said | Row) -> str:
    return row.messages[0]["role"] if isinstance(row, Row) else row[0][0][0]


def _readable(row: Row) -> str:
    if row.plain:
        return row.halves[0]
    asked = [message for message in row.messages[:-1] if message["role"] != "system"]
    if len(asked) == 1:
        return asked[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in asked)


class _ControlWords:
    """The base's control tokens as they are written; in a row's text they read as the tokens themselves."""

    def __init__(self, template: ChatTemplate) -> None:
        words = [template.token_text(number) for number in sorted(template.special_tokens)]
        self._pattern = re.compile("|".join(map(re.escape, words)))
        self._begins = {word[0] for word in words if word}

    def stand_in(self, words: Sequence[str]) -> bool:
        """Whether one stands in a row's words."""
        for said in words:
            for begin in self._begins:
                if begin in said and self._pattern.search(said):
                    return True
        return False
