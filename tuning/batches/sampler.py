# pyright: basic
# (torch and numpy ship incomplete types)
"""Cuts a run into micro batches: a pure function of the prepared rows, the seed and the step.

A *sequence* is the content of one line of a batch: one row or, when packed, several. A *window* is the sequences of one
optimizer step (the effective batch); windows are cut from the epoch's order. Within a window sequences stand by length,
so that a micro batch carries little padding: the loss is normalised over the whole window, so the step stays the same.

Packing never lets rows see each other. A packed line has positions that start again at 0 with each row and no attention
mask. transformers makes a block mask of these positions (sdpa and eager attention), and ``isolated`` proves it on the
real model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .loss import IGNORED, evaluating, next_token_labels, pad_batch
from .packing import alone, pack
from .prepared_set import PreparedSet
from .windows import Windows

LEAK_TOLERANCE = 1e-4
"""Largest change of a row's logits, in their standard deviations, when its neighbours change; rounding stays below."""


class Batches(Windows):
    """Cuts the micro batches of each optimizer step, and makes the tensors of each.

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
        sequences = alone(len(rows)) if pack_tokens is None else pack(rows.lengths, pack_tokens)
        totals = sequences.totals(rows.lengths)
        super().__init__(
            totals.tolist(), count=len(sequences), seed=seed, micro_batch=micro_batch, accumulation=accumulation
        )
        self.rows, self.pad_id, self.packed = rows, pad_id, pack_tokens is not None
        self.sequences, self._totals = sequences, totals

    def collate(self, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return one micro batch: the inputs of the model's forward, ``shift_labels``, ``tokens`` (without padding)."""
        lines = [[self.rows[i] for i in self.sequences[index].tolist()] for index in batch]
        tensors = pack_batch(lines, self.pad_id) if self.packed else pad_batch([line[0] for line in lines], self.pad_id)
        tensors["tokens"] = torch.tensor(int(self._totals[list(batch)].sum()))
        return tensors

    def normaliser(self, batches: Sequence[dict[str, torch.Tensor]]) -> int:
        """Return the trained tokens of a window's batches: the step's loss is a mean over them."""
        return sum(int((batch["shift_labels"] != IGNORED).sum()) for batch in batches)


def pack_batch(lines: Sequence[Sequence[tuple[Any, Any]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Make packed lines: input_ids, position_ids (0 again with each row) and shift_labels, each (lines, longest).

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
    """Return True when this model keeps packed rows apart: a row's logits stay when its neighbours change.

    Args:
        model: The model as it will train, its attention kernel included.
        vocabulary: Token ids to choose from.
        device: The model's device.
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
