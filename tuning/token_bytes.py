"""Where in a text its tokens stand, found from the bytes that each token is, without asking the tokenizer for offsets.

Offsets cost a tokenizer a fifth of its time. A byte-level vocabulary (GPT-2's alphabet, as most models have it) spells
each token's bytes, so that a row's tokens, one after the other, *are* the row, and their places follow by adding up.
That is checked for every row, byte by byte. A row for which it does not hold (a normalizer changed it, an added token
swallowed a space), and one whose loss begins or ends beside a token of white space, is left to the offsets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS, BLANK, UNSURE = 0, 1, 2
"""What a token is: something is written, white space alone, or bytes that are no whole characters."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Tokens that carry loss: of row ``rows[i]`` those from ``firsts[i]`` to ``ends[i]``."""

    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]
    ends: NDArray[np.int64]


class TokenBytes:
    """The bytes of every token of a byte-level vocabulary.

    Args:
        tokenizer: Whose.
        special: Ids of its control tokens.
    """

    def __init__(self, tokenizer: "Tokenizer", special: frozenset[int]) -> None:
        spelled = _spelled(tokenizer)
        size = max(spelled) + 1
        self._sizes = np.zeros(size, dtype=np.int64)
        self._kinds = np.full(size, UNSURE, dtype=np.uint8)
        self._special = np.zeros(size, dtype=np.bool_)
        self._special[[number for number in special if number < size]] = True
        for number, said in spelled.items():
            self._sizes[number] = len(said)
            self._kinds[number] = _kind(said)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._bytes = np.frombuffer(b"".join(spelled.get(number, b"") for number in range(size)), dtype=np.uint8)

    @classmethod
    def of(cls, tokenizer: "Tokenizer", special: frozenset[int]) -> "TokenBytes | None":
        """Those of a tokenizer; None where its vocabulary is not byte-level."""
        return cls(tokenizer, special) if type(tokenizer.decoder).__name__ == "ByteLevel" else None

    def ranges(
        self, ids: NDArray[np.int32], counts: NDArray[np.int64], texts: list[str], spans: NDArray[np.int64]
    ) -> tuple[Ranges, NDArray[np.bool_]]:
        """The tokens of each span.

        Args:
            ids: Of all texts, one after the other.
            counts: Tokens of each text.
            texts: What was tokenized.
            spans: Three columns: the text's number, and the bytes in it from which and to which loss is.

        Returns:
            The ranges, and for each text whether they hold; where not, the text's own offsets have to be asked.
        """
        sizes = self._sizes[ids]
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        last = np.cumsum(counts)
        first = last - counts
        held = self._same(ids, counts, texts, starts[last] - starts[first])
        rows, begins, stops = spans[:, 0], spans[:, 1] + starts[first[spans[:, 0]]], spans[:, 2]
        stops = stops + starts[first[rows]]
        begin, stop = np.searchsorted(starts, begins), np.searchsorted(starts, stops)
        begin, stop = np.minimum(begin, len(ids)), np.minimum(stop, len(ids))
        kinds = np.append(self._kinds[ids], WORDS)
        exact = (starts[begin] == begins) & (begin < last[rows]) & (kinds[begin] == WORDS)
        exact &= (starts[stop] == stops) & ((stop == last[rows]) | (kinds[stop] == WORDS)) & (stop > begin)
        stop, sure = self._without_tail(ids, kinds, begin, np.maximum(stop, 1))
        held[rows[~(exact & sure)]] = False
        return Ranges(rows, begin - first[rows], stop - first[rows]), held

    def _same(
        self, ids: NDArray[np.int32], counts: NDArray[np.int64], texts: list[str], lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """For each text whether its tokens, which are so many bytes together, are its bytes."""
        said = [text.encode() for text in texts]
        same = lengths == np.array([len(text) for text in said])
        same &= lengths > 0
        same[np.repeat(np.arange(len(texts)), counts)[self._sizes[ids] == 0]] = False
        if not same.any():
            return same
        chosen = ids[np.repeat(same, counts)]
        sizes = self._sizes[chosen]
        shifts: NDArray[np.int32] = (self._starts[chosen] - (np.cumsum(sizes) - sizes)).astype(np.int32)
        places = np.repeat(shifts, sizes) + np.arange(int(lengths[same].sum()), dtype=np.int32)
        whole = b"".join(said) if same.all() else b"".join(text for text, one in zip(said, same, strict=True) if one)
        differs = self._bytes[places] != np.frombuffer(whole, dtype=np.uint8)
        if differs.any():
            begins = np.cumsum(lengths[same]) - lengths[same]
            same[np.flatnonzero(same)[np.add.reduceat(differs, begins, dtype=np.int64) > 0]] = False
        return same

    def _without_tail(
        self, ids: NDArray[np.int32], kinds: NDArray[np.uint8], begin: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ends without what the template writes behind the turn's end token, and where two tokens make that plain."""
        last, before = ids[stop - 1], ids[np.maximum(stop - 2, 0)]
        ended = self._special[last]
        ends_before = ~ended & (stop - 2 >= begin) & self._special[before]
        return stop - ends_before, ended | ends_before | (kinds[stop - 1] == WORDS)


def _spelled(tokenizer: "Tokenizer") -> dict[int, bytes]:
    """The bytes of each token; of one that is spelled in no alphabet that we know, none."""
    alphabet = _alphabet()
    found: dict[int, bytes] = {}
    for word, number in tokenizer.get_vocab(with_added_tokens=True).items():
        try:
            found[number] = bytes([alphabet[char] for char in word])
        except KeyError:
            found[number] = b""
    for number, token in tokenizer.get_added_tokens_decoder().items():
        found[number] = token.content.encode()
    return found


def _alphabet() -> dict[str, int]:
    """GPT-2's: a byte that prints is its own character, the others follow from U+0100 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _kind(said: bytes) -> int:
    try:
        return WORDS if said.decode().strip() else BLANK
    except UnicodeDecodeError:
        return UNSURE
