"""Maps character spans of a rendered row to the tokens that carry loss.

The whole text is tokenized once, and its offsets tell the tokens of a span. A token that lies on both sides of a
span's edge carries loss if it holds words of the span; white space that a template writes after its end token
carries none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True, slots=True)
class Span:
    """Marks characters ``start`` to ``end`` of a text as carrying loss, up to the turn's own end token.

    Attributes:
        start: The first character.
        end: The character after the last one.
        with_end_token: True if an end token that follows the span, white space aside, carries loss too.
        words_end: Earliest end of the row's own words in the span; an end token is only searched after it.
    """

    start: int
    end: int
    with_end_token: bool = False
    words_end: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Holds a row as tokens: ``tokens`` int32, ``mask`` uint8 of the same length, 1 where a token carries loss."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]


def masked(ids: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Encoded:
    """Return tokens and mask of a row, of which the given ranges carry loss."""
    mask = np.zeros(len(ids), dtype=np.uint8)
    for first, end in ranges:
        mask[first:end] = 1
    return Encoded(np.array(ids, dtype=np.int32), mask)


def trained_ranges(
    encoding: "Encoding",
    ids: Sequence[int],
    text: str,
    spans: Sequence[Span] | None,
    *,
    special: frozenset[int],
    ends: frozenset[int],
) -> list[tuple[int, int]]:
    """Return the tokens that carry loss, as ``(first, end)``.

    Args:
        encoding: The encoding of the whole text, with offsets into it.
        ids: The encoding's ids. An encoding makes a new list each time they are read, so the caller passes them on.
        text: The tokenized text.
        spans: The spans that carry loss; None for the whole text.
        special: Ids of the control tokens.
        ends: Ids of the tokens that may end an assistant's turn.
    """
    if spans is None:
        return [(0, len(ids))]
    ranges: list[tuple[int, int]] = []
    for span in spans:
        first, end = _tokens_of(encoding, text, span)
        if span.with_end_token:
            end = _with_end(encoding, ids, text, end, ends)
        else:
            end = _to_end(encoding, ids, text, span, (first, end), special, ends)
        ranges.append((first, end))
    return ranges


def _with_end(encoding: "Encoding", ids: Sequence[int], text: str, end: int, ends: frozenset[int]) -> int:
    """Extend the range's end over the end token after it, if there is one; white space may stand before it."""
    for token in range(end, len(ids)):
        if ids[token] in ends:
            return token + 1
        start, stop = encoding.token_to_chars(token) or (0, 0)
        if text[start:stop].strip():
            break
    return end


def _to_end(  # noqa: PLR0917  (all of one span)
    encoding: "Encoding",
    ids: Sequence[int],
    text: str,
    span: Span,
    found: tuple[int, int],
    special: frozenset[int],
    ends: frozenset[int],
) -> int:
    """Return the range's end after the turn's own end token: text after that token is part of no answer."""
    first, end = found
    words = max(first, _token_at(encoding, span.words_end, span.end)) if span.words_end else first
    own = next((token for token in range(words, end) if ids[token] in ends), None)
    return own + 1 if own is not None else _without_tail(encoding, ids[:end], text[: span.end], first, special)


def _tokens_of(encoding: "Encoding", text: str, span: Span) -> tuple[int, int]:
    first = _token_at(encoding, span.start, len(text))
    if first < len(encoding):
        start, stop = encoding.token_to_chars(first) or (span.start, span.start)
        first += start < span.start and not text[span.start : stop].strip()
    end = _token_at(encoding, span.end, len(text))
    if end < len(encoding):
        start, _ = encoding.token_to_chars(end) or (span.end, span.end)
        end += start < span.end and bool(text[start : span.end].strip())
    return first, end


def _token_at(encoding: "Encoding", start: int, stop: int) -> int:
    """Return the first token that holds a character from ``start`` on; white space that has no token is skipped."""
    for char in range(start, stop):
        token = encoding.char_to_token(char)
        if token is not None:
            return token
    return len(encoding)


def _without_tail(encoding: "Encoding", ids: Sequence[int], text: str, first: int, special: frozenset[int]) -> int:
    for token in range(len(ids) - 1, first - 1, -1):
        _, stop = encoding.token_to_chars(token) or (0, 0)
        if ids[token] in special:
            return token + 1
        if text[stop:].strip():
            break
    return len(ids)
