# pyright: basic
# (torch and numpy ship incomplete types)
"""The micro batches of a run: a pure function of the prepared rows, the seed and the epoch.

A *sequence* is what one line of a batch holds: one row or, when packed, several. A *window* is the sequences of one
optimizer step (the effective batch); they are cut from the epoch's order. Within a window sequences stand by length, so
that a micro batch carries little padding: the loss is normalised over the whole window, so the step stays the same.

Packing never lets rows see each other. A packed line has positions that start again at 0 with each row and no attention
mask; transformers makes a block mask of that (sdpa and eager attention), and ``isolated`` proves it on the real model.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .loss import IGNORED, evaluating, next_token_labels, pad_batch
from .packing import alone, pack
from .prepared import PreparedSet, permutation

LEAK_TOLERANCE = 1e-4
"""Largest change of a row's logits, in their standard deviations, when its neighbours change; rounding stays below."""


class Batches:
    """A torch batch sampler and collate function in one: iterate for the current ``epoch``.

    Args:
        rows: The prepared training rows.
        seed: The job's seed.
        micro_batch: Sequences in one forward pass.
        accumulation: Forward passes per optimizer step.
        pad_id: The tokenizer's pad token.
        pack_tokens: Pack rows into sequences of at most this many tokens; None leaves each row alone.
    """

    def __init__(
        self,
        rows: PreparedSet,
        *,
        seed: int,
        micro_batch: int,
        accumulation: int,
        pad_id: int,
        pack_tokens: int | None = None,
    ) -> None:
        self.rows, self.seed, self.pad_id = rows, seed, pad_id
        self.micro_batch, self.window = micro_batch, micro_batch * accumulation
        self.packed = pack_tokens is not None
        self.epoch = 0
        self.sequences = alone(len(rows)) if pack_tokens is None else pack(rows.lengths, pack_tokens)
        self._lengths = self.sequences.totals(rows.lengths)

    def __len__(self) -> int:
        """Micro batches of one epoch."""
        return math.ceil(len(self.sequences) / self.micro_batch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last may have a smaller window."""
        return math.ceil(len(self.sequences) / self.window)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(order), self.window):
            window = sorted(order[start : start + self.window], key=lambda i: self._lengths[i])
            for first in range(0, len(window), self.micro_batch):
                yield window[first : first + self.micro_batch]

    def collate(self, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        """One micro batch: what the model's forward takes, ``shift_labels``, and ``tokens`` (without the padding)."""
        lines = [[self.rows[i] for i in self.sequences[index].tolist()] for index in batch]
        tensors = pack_batch(lines, self.pad_id) if self.packed else pad_batch([line[0] for line in lines], self.pad_id)
        tensors["tokens"] = torch.tensor(int(self._lengths[list(batch)].sum()))
        return tensors

    def _order(self) -> list[int]:
        if not self.packed:
            return self.rows.order(self.seed, self.epoch).tolist()
        return permutation(len(self.sequences), self.seed, self.epoch).tolist()


def pack_batch(lines: Sequence[Sequence[tuple[Any, Any]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Packed lines: input_ids, position_ids (0 again with each row) and shift_labels, each (lines, longest).

    No row predicts the first token of the next, and the padding at the end is a row of its own without loss.
    """
    width = max(sum(len(tokens) for tokens, _ in line) for line in lines)
    ids = np.full((len(lines), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(lines), width), dtype=np.int64)
    labels = np.full((len(lines), width), IGNORED, dtype=np.int64)
    for i, line in enumerate(lines):
        at = 0
        for tokens, mask in line:
            end = at + len(tokens)
            ids[i, at:end] = tokens
            positions[i, at:end] = np.arange(len(tokens))
            labels[i, at:end] = next_token_labels(tokens, mask)
            at = end
        positions[i, at:] = np.arange(width - at)
    arrays = {"input_ids": ids, "position_ids": positions, "shift_labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def isolated(model: Any, vocabulary: int, device: str) -> bool:
    """Whether this model keeps packed rows apart: a row's logits stay the same when its neighbours change.

    Args:
        model: The model as it will train, its attention kernel included.
        vocabulary: Token ids to choose from.
        device: Where the model is.
    """
    rng = np.random.default_rng(0)

    def row() -> tuple[Any, Any]:
        return rng.integers(0, vocabulary, 8), np.ones(8, dtype=np.uint8)

    kept, logits = [row(), row()], []
    with torch.no_grad(), evaluating(model):
        for _ in range(2):
            batch = pack_batch([[row(), middle, row()] for middle in kept], pad_id=0)
            batch.pop("shift_labels")
            output = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False)
            logits.append(output.logits[:, 8:16].float())
    change = (logits[0] - logits[1]).abs().max() / logits[0].std()
    return bool(change <= LEAK_TOLERANCE)
