"""Tokenizes a piece of a set of rows: renders the rows, tokenizes them in one batch, cuts and masks them."""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..batches.prepared_set import HeldOutRow, prompt_line
from ..files.faults import BadLines
from ..recipe import Turns
from ..rows.row import Row
from ..templates.chat_template import ChatTemplate
from ..templates.prompt_border import JOINED, TokenizedRow
from ..templates.tokenizer_calls import backend
from ..templates.turns import asked_turn, left_out, rows_of_turns
from .receipt import KEPT_LINES, SetFacts
from .render import RenderedRow, Renderer
from .row_store import RowStore
from .samples import FirstRow, kinds_of

LONG_BYTES = 4 << 20
"""Largest piece for a copy. A piece of one longer row is not given to a copy: each copy would need memory for it."""

CACHED_WORDS = 100_000
"""Words whose tokens the tokenizer caches. Its default of 10,000 is full after some thousand rows, and then a ninth of
the time goes into words that the tokenizer has seen."""

Cut = tuple[int, int]
"""The first row of a piece, and the row after its last."""


@dataclass(slots=True)
class EncodedPiece:
    """Holds a piece as tokens: the rows that stay, one after the other, and the findings about all rows.

    Attributes:
        firsts: The first row of each kind among the rows that stay, numbered from 0.
    """

    facts: SetFacts = field(default_factory=SetFacts)
    bad: BadLines = field(default_factory=BadLines)
    prompts: list[str] = field(default_factory=list[str])
    firsts: dict[str, FirstRow] = field(default_factory=dict[str, FirstRow])
    _tokens: "array[int]" = field(default_factory=lambda: array("i"))
    _mask: bytearray = field(default_factory=bytearray)
    _lengths: "array[int]" = field(default_factory=lambda: array("q"))
    labels: bytearray = field(default_factory=bytearray)

    def add(self, tokens: list[int], ranges: Sequence[tuple[int, int]], *, wanted: bool | None = None) -> None:
        """Adds a row of the given tokens, of which the given ranges carry loss."""
        if wanted is not None:
            self.labels.append(wanted)
        mask = bytearray(len(tokens))
        for first, end in ranges:
            stop = min(end, len(tokens))
            mask[first:stop] = b"\1" * (stop - first)
        self._tokens.extend(tokens)
        self._mask += mask
        self._lengths.append(len(tokens))

    def note_kinds(self, row: Row, *, lost: bool) -> None:
        """Notes the kinds of the row that was added last."""
        for kind in kinds_of(row, lost=lost):
            if kind not in self.firsts:
                self.firsts[kind] = FirstRow(len(self._lengths) - 1, row.line)

    @property
    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
        """Returns tokens and mask of all rows, and each row's length."""
        return (
            np.frombuffer(self._tokens, dtype=np.int32),
            np.frombuffer(self._mask, dtype=np.uint8),
            np.frombuffer(self._lengths, dtype=np.int64),
        )


class Encoder:
    """Turns pieces of a set into tokens.

    Args:
        template: The template in force.
        store: The rows.
        numbers: The numbers of the set's rows in the store.
        max_length: Most tokens of a row; longer rows are cut.
        completion_only: Loss on the assistant's words only, else on everything.
        too_long: Selects if a row longer than ``max_length`` is cut or dropped.
        held_out: True if the rows' prompts are needed too.
        turns: The answers of a conversation that are trained (``templates/turns.py``).
        group: Rows that stay or go together: 2 for pairs of a chosen and a rejected answer.
    """

    def __init__(
        self,
        template: ChatTemplate,
        store: RowStore,
        numbers: NDArray[np.int64],
        *,
        max_length: int,
        completion_only: bool,
        too_long: Literal["cut", "drop"],
        held_out: bool,
        turns: Turns = "whole",
        group: int = 1,
    ) -> None:
        self._group = group
        self._template, self._store, self._numbers = template, store, numbers
        self._turns: Turns = turns
        self._max_length, self._drops_long, self._held_out = max_length, too_long == "drop", held_out
        self._completion_only = completion_only
        self._renderer = Renderer(template, completion_only=completion_only)
        self._tokenizer = backend(template.tokenizer)
        resize = getattr(self._tokenizer.model, "_resize_cache", None)  # its Python types do not declare the method
        if resize:
            resize(CACHED_WORDS)

    def short_piece(self, cut: Cut) -> EncodedPiece | None:
        """Encodes a piece; None where it is too long for a forked copy."""
        first, end = cut
        if int(self._store.size_bytes(self._numbers[first:end]).sum()) > LONG_BYTES:
            return None
        return self.piece(cut)

    def piece(self, cut: Cut) -> EncodedPiece:
        """Renders, tokenizes, masks and cuts the rows of a piece."""
        done = EncodedPiece()
        stored = list(self._store.chosen(self._numbers[slice(*cut)]))
        rows = [part for row in stored for part in rows_of_turns(row, self._turns)]
        done.facts.turns_left_out += sum(left_out(row, self._turns) for row in stored)
        prompts = len(rows) if self._held_out else 0
        rendered = self._renderer.render(rows, prompts=prompts, facts=done.facts, bad=done.bad)
        tokenized = self._template.border.tokenized([one.rendered for one in rendered])
        asked = self._prompts(rendered)
        if len(rendered) % self._group:
            return done  # the template refused an answer of a pair, and so the file
        made: list[_Answer] = []
        for number, (one, row) in enumerate(zip(rendered, tokenized, strict=True)):
            answer: list[int] = []
            if self._held_out and not one.row.plain:
                answered = row if self._completion_only else self._trained(one.row)
                first, end = answered.ranges[-1]
                answer = answered.ids[first:end]
            _count_border(done.facts, row, one, asked.get(number))
            made.append(_Answer(one.row, row.ids, row.ranges, asked.get(number), answer, bool(one.rendered.lost)))
            if len(made) == self._group:
                self._take(done, made)
                made = []
        return done

    def _prompts(self, rendered: Sequence[RenderedRow]) -> dict[int, list[int]]:
        """Returns the tokens of the prompts that are needed, by row."""
        asked = {number: one.prompt for number, one in enumerate(rendered) if one.prompt is not None}
        encodings = self._tokenizer.encode_batch_fast(list(asked.values()), add_special_tokens=False)
        return {number: encoding.ids for number, encoding in zip(asked, encodings, strict=True)}

    def _take(self, done: EncodedPiece, made: Sequence["_Answer"]) -> None:
        """Counts a row, or a pair of them, and adds it unless no part of an answer is left to learn, or to ask.

        Both rows of a pair are cut at the same length, and stay or go together.
        """
        longest = max(len(one.ids) for one in made)
        if self._drops_long and longest > self._max_length:
            done.facts.lengths.append(sum(len(one.ids) for one in made))
            done.facts.too_long += 1
            return
        _count(done.facts, made, self._max_length)
        if not all(self._is_left(one) for one in made):
            done.facts.dropped += 1
            if len(done.facts.dropped_lines) < KEPT_LINES:
                done.facts.dropped_lines.append(made[0].row.line)
            return
        for one in made:
            done.add(one.ids[: self._max_length], one.ranges, wanted=one.row.wanted)
            done.note_kinds(one.row, lost=one.lost)
            if self._held_out and one.prompt is not None:
                done.prompts.append(prompt_line(self._held_out_row(one.row, one.prompt, one.answer)))

    def _is_left(self, one: "_Answer") -> bool:
        learns = any(first < min(end, self._max_length) for first, end in one.ranges)
        return learns and (not self._held_out or one.prompt is None or len(one.prompt) < self._max_length)

    def _held_out_row(self, row: Row, prompt: list[int], answer: list[int]) -> HeldOutRow:
        reference = row.halves[1] if row.plain else self._template.decoded(answer)
        held_out: HeldOutRow = {
            "prompt_tokens": prompt,
            "prompt": _readable(row),
            "reference": reference,
            "line": row.line,
            "row_hash": _hash(row),
        }
        if row.wanted is not None:
            held_out["wanted"] = row.wanted
        if not row.plain:
            held_out["answer_tokens"] = answer
            held_out["tools"] = bool(row.tools) or any("tool_calls" in message for message in row.messages)
        return held_out

    def _trained(self, row: Row) -> TokenizedRow:
        """Returns a row with the token ranges of its answers, where the loss is on everything."""
        (tokenized,) = self._template.border.tokenized([self._template.rendered(row, completion_only=True)])
        return tokenized


def _count_border(facts: SetFacts, row: TokenizedRow, one: RenderedRow, prompt: list[int] | None) -> None:
    """Counts a row whose prompt and answer would share a token; of running text only held-out rows have a prompt."""
    judged = bool(one.rendered.spans) or one.rendered.border is not None
    facts.boundary_checked += judged or prompt is not None
    facts.boundary_merged += row.shared or (not judged and prompt is not None and row.ids[: len(prompt)] != prompt)
    facts.boundary_apart += row.apart
    facts.lost_turns.extend([JOINED] * row.joined_turns)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Holds a row as tokens before it is cut: the ranges that carry loss, its prompt if needed, its last answer.

    ``lost`` is True if the template leaves out words of an answer.
    """

    row: Row
    ids: list[int]
    ranges: list[tuple[int, int]]
    prompt: list[int] | None
    answer: list[int]
    lost: bool


def _count(facts: SetFacts, made: Sequence[_Answer], most: int) -> None:
    facts.lengths.append(sum(len(one.ids) for one in made))
    cut = [one for one in made if len(one.ids) > most]
    if not cut:
        return
    lost = sum(max(end - max(first, most), 0) for one in cut for first, end in one.ranges)
    facts.truncated += 1
    facts.cut_tokens += sum(len(one.ids) - most for one in cut)
    facts.cut_answers += lost > 0
    facts.cut_trained_tokens += lost


def _hash(row: Row) -> str:
    """Hashes a held-out row so that equal rows have equal hashes: the whole prompt, tools included, and the answer."""
    turn = 0 if row.plain else asked_turn(row)
    whole = json.dumps([row.messages[: turn + 1], row.tools], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _readable(row: Row) -> str:
    """Returns the prompt for people to read."""
    if row.plain:
        return row.halves[0]
    turns = [(turn["role"], turn["content"]) for turn in row.messages[: asked_turn(row)] if turn["role"] != "system"]
    return turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {said}" for role, said in turns)
