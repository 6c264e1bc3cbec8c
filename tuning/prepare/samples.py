"""Chooses the rows that a receipt shows: one for each kind of row and of turn in a set, with the words that carry loss.

The first row of a file seldom shows everything: a call, a thought, an answer of weight 0 or an answer whose words the
template leaves out may stand in the thousandth. Each set remembers the first row of each kind; the receipt shows these
rows, from the arrays that training reads.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict

import numpy as np

from ..batches.prepared_set import PreparedSet
from ..rows.row import Message, Row
from ..templates.loss_masks import Encoded
from .privacy import masked

MOST_SAMPLES = 8
SAMPLE_CHARACTERS = 4000

PLAIN, ANSWER, TALK = "running text", "one answer", "several answers"
SYSTEM, TOOLS, THOUGHT = "a system text", "declared tools", "a thought"
CALL, CALLS, RESULT = "a tool call", "several tool calls in one turn", "a tool's result"
WANTED, UNWANTED = "a wanted answer", "an unwanted answer"
NO_LOSS, LOST = "an answer of weight 0", "an answer whose words the template leaves out"


class Piece(TypedDict):
    """A part of a row's text, and whether it carries loss."""

    text: str
    trained: bool


class Sample(TypedDict):
    """A row of the receipt: its line, the kinds that it is the first of, and its text in parts."""

    line: int
    kinds: list[str]
    parts: list[Piece]


@dataclass(frozen=True, slots=True)
class FirstRow:
    """Names the first row of a kind: its number in its set, and its line in the file."""

    number: int
    line: int


def kinds_of(row: Row, *, lost: bool) -> Iterator[str]:
    """Yields the kinds of a row and of its turns.

    Args:
        row: The row.
        lost: True if the template leaves out words of an answer, which therefore carries no loss.
    """
    if row.plain:
        yield PLAIN
        return
    answers = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    yield ANSWER if len(answers) == 1 else TALK
    if row.wanted is not None:
        yield WANTED if row.wanted else UNWANTED
    if row.tools:
        yield TOOLS
    if lost:
        yield LOST
    elif not all(row.weights[number] for number in answers):
        yield NO_LOSS
    for message in row.messages:
        yield from _kinds_of_turn(message)


def _kinds_of_turn(message: Message) -> Iterator[str]:
    if message["role"] in ("system", "tool"):
        yield SYSTEM if message["role"] == "system" else RESULT
    if message.get("reasoning_content"):
        yield THOUGHT
    if calls := message.get("tool_calls"):
        yield CALL if len(calls) == 1 else CALLS


def samples(rows: PreparedSet, firsts: Mapping[str, FirstRow], decode: Callable[[Sequence[int]], str]) -> list[Sample]:
    """Returns the first row of each kind, each row once, in their order.

    Args:
        rows: The set.
        firsts: The first row of each kind.
        decode: Turns tokens into text.
    """
    kinds: defaultdict[FirstRow, list[str]] = defaultdict(list)
    for kind, first in firsts.items():
        kinds[first].append(kind)
    chosen = sorted(kinds, key=lambda first: first.number)[:MOST_SAMPLES]
    found: list[Sample] = []
    for first in chosen:
        tokens, mask = rows[first.number]
        found.append({"line": first.line, "kinds": kinds[first], "parts": sample_pieces(Encoded(tokens, mask), decode)})
    return found


def sample_pieces(row: Encoded, decode: Callable[[Sequence[int]], str]) -> list[Piece]:
    """Splits a row's text where loss begins and ends; likely secrets and personal data are masked."""
    edges = [0, *(np.flatnonzero(np.diff(row.mask)) + 1).tolist(), len(row.mask)]
    pieces: list[Piece] = []
    room = SAMPLE_CHARACTERS
    for start, end in pairwise(edges):
        text = masked(decode(row.tokens[start:end].tolist()))
        pieces.append({"text": text if len(text) <= room else text[:room] + "…", "trained": bool(row.mask[start])})
        room -= len(text)
        if room <= 0:
            break
    return pieces
