"""Packs rows into sequences by index, from the rows' lengths alone.

A sequence takes the longest rows that fit, and as soon as one or two rows that are left would fill it to the last
token, it takes them. Best fit decreasing (Johnson 1973), which looks one row ahead, leaves in each sequence a
rest below the shortest row, which is 1.2 % where rows are long (GSM8K at 2,048 tokens: 98.8 % full, against 99.5 %; no
packing is over 99.9 %). Where filling to the last token went badly, best fit is tried too and the better one taken, so
that its bound of 11/9 of the optimum holds.

Rows of one length are placed together, as many as a sequence takes at once, so the work grows with the number of
different lengths and sequences rather than with that of the rows. The result is a function of the lengths alone, the
same on every machine.
"""

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOOD = 1.01
"""A result within this factor of the sequences that the tokens alone would fill is taken without another try."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Holds rows by sequence, flat.

    Attributes:
        rows: int64, every row once: sequence i holds ``rows[offsets[i]:offsets[i + 1]]``, longest first.
        offsets: int64, one more than there are sequences.
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Return the rows of a sequence."""
        return self.rows[self.offsets[index] : self.offsets[index + 1]]

    def totals(self, lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the tokens of each sequence."""
        ends = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum(lengths[self.rows], out=ends[1:])
        return np.diff(ends[self.offsets])


def alone(rows: int) -> Bins:
    """Make every row a sequence of its own, in their order."""
    return Bins(np.arange(rows, dtype=np.int64), np.arange(rows + 1, dtype=np.int64))


def pack(lengths: ArrayLike, capacity: int) -> Bins:
    """Put rows into few sequences of at most ``capacity`` tokens.

    Args:
        lengths: Tokens of each row, at least 1. A longer row than the capacity gets a sequence of its own.
        capacity: Tokens of a sequence.

    Returns:
        The rows by sequence; among rows of one length the earlier comes first.

    Raises:
        ValueError: A length or the capacity is less than 1.

    Example:
        lengths [6, 4, 3, 3], capacity 10 give the sequences [0, 1] and [2, 3].
    """
    sizes = np.minimum(np.asarray(lengths, dtype=np.int64), capacity)
    if capacity < 1 or (len(sizes) and sizes.min() < 1):
        raise ValueError("lengths and capacity count tokens and are at least 1")
    order = np.argsort(-sizes, kind="stable")
    places = _filled(sizes, capacity)
    if int(places.max(initial=-1)) + 1 > GOOD * -(-int(sizes.sum()) // capacity):
        fitted = np.array(_places(sizes, capacity), dtype=np.int64)
        places = min(places, fitted, key=lambda found: int(found.max(initial=-1)))
    by_sequence = np.argsort(places, kind="stable")
    offsets = np.zeros(int(places.max(initial=-1)) + 2, dtype=np.int64)
    np.cumsum(np.bincount(places, minlength=len(offsets) - 1), out=offsets[1:])
    return Bins(order[by_sequence], offsets)


def _filled(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Return the sequence of each row, from the longest row to the shortest; one sequence after the other is filled."""
    left, sequence = _Left(sizes, capacity), 0
    while left.lengths:
        room, longest = capacity, left.lengths.bit_length() - 1
        while fitting := left.lengths & ((2 << room) - 1):
            size = fitting.bit_length() - 1
            if size < room <= 2 * longest and (pair := left.pair(room)):
                left.take(sequence, pair, 1)
                left.take(sequence, room - pair, 1)
                break
            rows = max(1, min(left.counts[size], (room - 2 * longest) // size))
            left.take(sequence, size, rows)
            room -= rows * size
        sequence += 1
    return left.places()


class _Left:
    """Holds rows that have no sequence yet, by length; the lengths that occur are the bits of one number."""

    def __init__(self, sizes: NDArray[np.int64], capacity: int) -> None:
        counts = np.bincount(sizes, minlength=capacity + 1)
        self.counts: list[int] = counts.tolist()
        self.lengths = sum(1 << size for size in np.flatnonzero(counts).tolist())
        self._occurs = counts > 0
        self._next: list[int] = (len(sizes) - np.cumsum(counts)).tolist()  # index of a length's next row, longest first
        self._taken: list[tuple[int, int, int]] = []

    def pair(self, room: int) -> int:
        """Return the longer of two lengths that fill a room exactly; 0 where there are none."""
        shorter = self._occurs[1:room]
        found = np.flatnonzero(shorter & shorter[::-1])
        longer = int(found[-1]) + 1 if len(found) else 0
        return longer if 2 * longer != room or self.counts[longer] > 1 else 0

    def take(self, sequence: int, size: int, rows: int) -> None:
        """Assign some rows of a length to a sequence."""
        self._taken.append((self._next[size], rows, sequence))
        self._next[size] += rows
        self.counts[size] -= rows
        if not self.counts[size]:
            self.lengths ^= 1 << size
            self._occurs[size] = False

    def places(self) -> NDArray[np.int64]:
        """Return the sequence of each row, once every row has one."""
        taken = np.array(sorted(self._taken), dtype=np.int64).reshape(-1, 3)
        return np.repeat(taken[:, 2], taken[:, 1])


def _places(sizes: NDArray[np.int64], capacity: int) -> list[int]:
    """Return the sequence of each row by best fit decreasing."""
    counts = np.bincount(sizes, minlength=1)
    open_by_room = _OpenSequences(capacity)
    places: list[int] = []
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            sequence, room = open_by_room.tightest(size)
            # once it has taken a row, the tightest sequence is the tightest still, until it can take no more
            rows = min(left, room // size)
            places.extend(repeat(sequence, rows))
            open_by_room.put(sequence, room - rows * size)
            left -= rows
    return places


class _OpenSequences:
    """Holds sequences by the room they have left; the rooms that occur are the bits of one number."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._opened, self._rooms = capacity, 0, 0
        self._by_room: list[list[int]] = [[] for _ in range(capacity + 1)]

    def tightest(self, size: int) -> tuple[int, int]:
        """Take out the sequence with the least room that holds ``size``, else a new one; return it and its room."""
        fitting = self._rooms >> size
        if not fitting:
            self._opened += 1
            return self._opened - 1, self._capacity
        room = size + (fitting & -fitting).bit_length() - 1
        sequence = self._by_room[room].pop()
        if not self._by_room[room]:
            self._rooms ^= 1 << room
        return sequence, room

    def put(self, sequence: int, room: int) -> None:
        """Put a sequence back with the room it has left."""
        self._by_room[room].append(sequence)
        self._rooms |= 1 << room
