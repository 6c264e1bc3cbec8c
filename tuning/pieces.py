"""A piece of a set of rows as tokens: rendered, tokenized in one batch, cut to length, masked, all in flat arrays.

Nearly all rows are words filled into a shape (shapes.py) whose tokens' places follow from the tokens' bytes
(token_bytes.py); the template and the tokenizer's offsets are asked for the others, with the same results.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .faults import BadLines
from .masks import Span, trained_ranges
from .prepared import prompt_line
from .receipt import KEPT_LINES, SetFacts
from .rows import Row, Said
from .spool import Spool
from .templates import ChatTemplate, backend
from .texts import Texts, Writing
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

_Flat = tuple[NDArray[np.int32], NDArray[np.int64]]
"""The tokens of all rows of a piece, one row after the other, and how many each row has."""


@dataclass(slots=True)
class Done:
    """A piece as tokens: the rows that stay, one after the other, and what was found out."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    prompts: list[str]
    facts: SetFacts
    bad: BadLines


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
        self._max_length, self._held_out = max_length, held_out
        self._writing = Writing(template, completion_only=completion_only)
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
        ids, (flat, counts), ranges, begins = self._tokens(texts)
        prompts = self._prompts(texts, ids, begins, facts)
        kept = self._kept(counts, ranges, prompts, facts)
        self._count(texts, counts, ranges, kept, facts)
        stay: list[int] = np.flatnonzero(kept).tolist() if self._held_out else []
        told = [self._told(texts, place, prompts[place]) for place in stay]
        return Done(*self._arrays(flat, counts, ranges, kept), told, facts, bad)

    def _texts(self, cut: Cut, facts: SetFacts, bad: BadLines) -> Texts:
        numbers = self._numbers[slice(*cut)]
        asks = len(numbers) if self._held_out else max(0, BOUNDARY_ROWS - cut[0])
        rows, lines = self._spool.said(numbers), self._spool.lines(numbers)
        return self._writing.texts(rows, lines, asks=asks, in_bytes=self._bytes is not None, facts=facts, bad=bad)

    def _tokens(self, texts: Texts) -> tuple[list[list[int]], _Flat, Ranges, dict[int, int]]:
        """Each row's tokens, also flat; which carry loss; and where a row's last answer begins, told by bytes."""
        said, asks = texts.said, {place for place, row in texts.others.items() if row.spans is not None}
        ids: list[list[int]] = [[]] * len(said)
        quick = [place for place in range(len(said)) if place not in asks]
        encodings = self._inner.encode_batch_fast([said[place] for place in quick], add_special_tokens=False)
        for place, encoding in zip(quick, encodings, strict=True):
            ids[place] = encoding.ids
        del encodings
        flat = _flat(ids)
        ranges = [(place, 0, len(ids[place])) for place, row in texts.others.items() if row.spans is None]
        found = [np.array(ranges, dtype=np.int64).reshape(-1, 3)]
        begins: dict[int, int] = {}
        if len(texts.spans):
            known, unsure = self._by_bytes(texts, *flat)
            found.append(known)
            asks |= unsure
            begins = dict(zip(known[:, 0].tolist(), known[:, 1].tolist(), strict=True)) if self._held_out else {}
        for place, encoding in self._offsets(said, sorted(asks)):
            ids[place], spans = encoding.ids, self._spans(texts, place)
            end_token, special = self._template.end_token, self._template.special_tokens
            trained = trained_ranges(encoding, ids[place], said[place], spans, special=special, end_token=end_token)
            found.append(np.array([(place, *one) for one in trained], dtype=np.int64).reshape(-1, 3))
        return ids, _flat(ids) if asks else flat, Ranges(*np.concatenate(found).T), begins

    def _offsets(self, said: list[str], places: list[int]) -> "Iterable[tuple[int, Encoding]]":
        encodings = self._inner.encode_batch([said[place] for place in places], add_special_tokens=False)
        return zip(places, encodings, strict=True)

    def _by_bytes(
        self, texts: Texts, flat: NDArray[np.int32], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], set[int]]:
        """Loss of the rows that were filled into a shape: row, first and end; and the rows whose offsets must tell."""
        assert self._bytes is not None  # noqa: S101  (spans in bytes are only made where it is)
        spans = texts.spans.copy()
        places = np.unique(spans[:, 0])
        chosen: list[int] = places.tolist()
        spans[:, 0] = np.searchsorted(places, spans[:, 0])
        if len(chosen) < len(counts):
            told = np.zeros(len(counts), dtype=np.bool_)
            told[places] = True
            flat, counts = flat[np.repeat(told, counts)], counts[places]
        ranges, held = self._bytes.ranges(flat, counts, [texts.said[place] for place in chosen], spans)
        if held.mean() < 0.5:  # noqa: PLR2004  (a tokenizer that changes what it reads: the offsets tell at once)
            self._bytes = None
        good = held[ranges.rows]
        known = np.stack([places[ranges.rows], ranges.firsts, ranges.ends], axis=1)[good]
        return known, set(places[~held].tolist())

    @staticmethod
    def _spans(texts: Texts, place: int) -> list[Span] | None:
        """What carries loss in a row, in characters."""
        if place in texts.others:
            return texts.others[place].spans
        spans: list[list[int]] = texts.spans[texts.spans[:, 0] == place, 1:].tolist()
        said = texts.said[place].encode()
        return [Span(len(said[:start].decode()), len(said[:end].decode())) for start, end in spans]

    def _prompts(
        self, texts: Texts, ids: list[list[int]], begins: dict[int, int], facts: SetFacts
    ) -> dict[int, list[int]]:
        """The tokens of the prompts that are wanted, by row."""
        starts: dict[int, int] = dict(texts.spans[:, :2].tolist()) if begins else {}  # of the last answer with loss
        prompts = {
            place: prompt
            for place, begin in begins.items()
            if starts[place] == len(texts.asked[place].encode())
            and (prompt := self._alike(texts.asked[place], ids[place], begin))
        }
        left = [place for place in texts.asked if place not in prompts]
        encodings = self._inner.encode_batch_fast([texts.asked[place] for place in left], add_special_tokens=False)
        alone = {place: encoding.ids for place, encoding in zip(left, encodings, strict=True)}
        facts.boundary_checked += len(texts.asked)
        facts.boundary_merged += sum(ids[place][: len(prompt)] != prompt for place, prompt in alone.items())
        return prompts | alone

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
        self, texts: Texts, counts: NDArray[np.int64], ranges: Ranges, kept: NDArray[np.bool_], facts: SetFacts
    ) -> None:
        facts.lengths.frombytes(counts.tobytes())
        over = np.maximum(counts - self._max_length, 0)
        cut = np.maximum(ranges.ends - np.maximum(ranges.firsts, self._max_length), 0)
        facts.truncated += int((over > 0).sum())
        facts.cut_tokens += int(over.sum())
        facts.cut_answers += len(np.unique(ranges.rows[cut > 0]))
        facts.cut_trained_tokens += int(cut.sum())
        dropped: list[int] = np.flatnonzero(~kept)[:KEPT_LINES].tolist()
        facts.dropped_lines.extend(texts.lines[place] for place in dropped)
        for rendered in texts.others.values():
            facts.marked_turns += rendered.marked_turns
            facts.prompt_differs += rendered.prompt_differs
        if not self._template.system_role:
            facts.system_folded += sum(_first_role(row) == "system" for row in texts.rows)

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

    def _told(self, texts: Texts, place: int, prompt: list[int]) -> str:
        """A held-out row's line in its file."""
        row, line = texts.rows[place], texts.lines[place]
        if isinstance(row, Row):
            return prompt_line(prompt, _readable(row), self._template.reference(row), line)
        (roles, _), words = row
        asked = [(role, said) for role, said in zip(roles[:-1], words[:-1], strict=True) if role != "system"]
        return prompt_line(prompt, _as_asked(asked), words[-1], line)


def _flat(ids: list[list[int]]) -> _Flat:
    counts = np.array([len(row) for row in ids], dtype=np.int64)
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(counts.sum())), counts


def _nothing() -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)


def _first_role(row: Said | Row) -> str:
    return row.messages[0]["role"] if isinstance(row, Row) else row[0][0][0]


def _readable(row: Row) -> str:
    if row.plain:
        return row.halves[0]
    return _as_asked([(turn["role"], turn["content"]) for turn in row.messages[:-1] if turn["role"] != "system"])


def _as_asked(turns: Sequence[tuple[str, str]]) -> str:
    """What was asked, for people to read."""
    return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {said}" for role, said in turns)
