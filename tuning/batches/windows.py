"""Cuts the sequences of a run into windows of micro batches: one window an optimizer step."""

import math
from collections.abc import Sequence

from .prepared_set import permutation


class Windows:
    """Cuts a run into windows, in a new order each epoch, which is a pure function of seed and epoch.

    Sequences of equal length stand together within a window, so that a micro batch has little padding.

    Args:
        lengths: The tokens of each sequence; None keeps the order of a window.
        count: The number of sequences.
        seed: The job's seed.
        micro_batch: Sequences in one forward pass.
        accumulation: Forward passes per optimizer step.
        each_epoch: True for a new order each epoch, False for one order of the whole run.
    """

    def __init__(
        self,
        lengths: Sequence[int] | None,
        *,
        count: int,
        seed: int,
        micro_batch: int,
        accumulation: int,
        each_epoch: bool = True,
    ) -> None:
        self.seed, self.micro_batch, self.accumulation = seed, micro_batch, accumulation
        self._lengths, self._count, self._each_epoch = lengths, count, each_epoch
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of one epoch; the last may have a smaller window."""
        return math.ceil(self._count / (self.micro_batch * self.accumulation))

    def window(self, step: int) -> list[list[int]]:
        """Return the micro batches of an optimizer step, each a list of sequences.

        Args:
            step: Counted from 0 over all epochs.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        size = self.micro_batch * self.accumulation
        found = self.order(epoch)[index * size : (index + 1) * size]
        if self._lengths is not None:
            found = sorted(found, key=self._lengths.__getitem__)
        return cut(found, self.micro_batch)

    def epochs_after(self, step: int) -> float:
        """Return how many epochs are done after that many steps; micro batches count, so the last window may be less.

        Example:
            11 rows in windows of 4, micro batches of 2: 2 of 6 micro batches after one step, 1.0 after three.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch + index * self.accumulation / math.ceil(self._count / self.micro_batch)

    def order(self, epoch: int) -> list[int]:
        """Return the sequences of an epoch in the order of their visit; the last requested epoch is cached."""
        epoch = epoch if self._each_epoch else 0
        if self._order[0] != epoch:
            self._order = (epoch, permutation(self._count, self.seed, epoch).tolist())
        return self._order[1]


def cut(rows: Sequence[int], size: int) -> list[list[int]]:
    """Cut rows into lists of that many; the last may be shorter."""
    return [list(rows[first : first + size]) for first in range(0, len(rows), size)]
