"""Which tokens of a rendered row carry loss: character spans become a mask over tokens.

The whole text is tokenized once and its offsets say which tokens a span got. A token that lies on both sides of a
span's edge carries loss if it holds words of the span; white space that a template writes behind its end token
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
    """Characters ``start`` to ``end`` of a text carry loss; an end token that follows them does too, if so asked."""

    start: int
    end: int
    with_end_token: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens: ``tokens`` int32, ``mask`` uint8 of the same length, 1 where a token carries loss."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]


def encoded(
    encoding: "Encoding", text: str, spans: Sequence[Span] | None, *, special: frozenset[int], end_token: int | None
) -> Encoded:
    """Tokens and mask of a text.

    Args:
        encoding: The whole text's, with offsets into it.
        text: What was tokenized.
        spans: What carries loss; None for all of it.
        special: Ids of the control tokens.
        end_token: Id of the token that ends an assistant's turn.
    """
    ids = encoding.ids
    mask = np.zeros(len(ids), dtype=np.uint8)
    for first, end in trained_ranges(encoding, ids, text, spans, special=special, end_token=end_token):
        mask[first:end] = 1
    return Encoded(np.array(ids, dtype=np.int32), mask)


def trained_ranges(
    encoding: "Encoding",
    ids: Sequence[int],
    text: str,
    spans: Sequence[Span] | None,
    *,
    special: frozenset[int],
    end_token: int | None,
) -> list[tuple[int, int]]:
    """The tokens that carry loss, as ``(first, end)``; arguments as of ``encoded``, and the encoding's own ``ids``.

    Asked for its ids, an encoding makes a new list each time, so whoever has them hands them on.
    """
    if spans is None:
        return [(0, len(ids))]
    ranges: list[tuple[int, int]] = []
    for span in spans:
        first, end = _tokens_of(encoding, text, span)
        if span.with_end_token:
            end += end < len(ids) and ids[end] == end_token
        else:
            end = _without_tail(encoding, ids[:end], text[: span.end], first, special)
        ranges.append((first, end))
    return ranges


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
    """The first token that holds a character from ``start`` on; white space that no token claims is passed over."""
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
