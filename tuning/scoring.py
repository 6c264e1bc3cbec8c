# pyright: basic
# (torch ships incomplete types)
"""The loss of each row: how well a model predicts every single held-out answer.

The definition is loss.py's: nats per trained token. Kept a row apart, because a mean hides the rows that got worse;
their weighted mean over a set is that set's eval loss. The batches are the very ones that loss.eval_loss makes: in
16-bit arithmetic the shape of a batch moves the result as far as two swapped layers do (verification.LOSS_TOLERANCE),
and the check of an adapter compares the two.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .loss import IGNORED, Rows, evaluating, pad_batch

Progress = Callable[[int, int], None]
"""``progress(done, total)``, in rows."""


@dataclass(frozen=True)
class RowLosses:
    """Losses of a set's rows, in the set's order.

    Attributes:
        sums: Summed negative log likelihood of each row's trained tokens, nats.
        tokens: How many trained tokens each row has.
    """

    sums: list[float]
    tokens: list[int]

    @property
    def mean(self) -> float:
        """Nats per trained token over the whole set; NaN where no token is trained."""
        return sum(self.sums) / sum(self.tokens) if any(self.tokens) else float("nan")

    def of_row(self, index: int) -> float | None:
        """Nats per trained token of one row; None where it has none."""
        return self.sums[index] / self.tokens[index] if self.tokens[index] else None


def row_losses(
    model: Any,
    rows: Rows,
    *,
    batch_rows: int,
    pad_id: int,
    device: str,
    progress: Progress = lambda _d, _t: None,
) -> RowLosses:
    """The loss of each row under the model as it is (adapter on or off).

    Args:
        model: A causal language model, without a PEFT wrapper around it (its layers may carry an adapter).
        rows: Prepared rows.
        batch_rows: Rows in one forward pass; to compare with the trainer's loss, its micro batch.
        pad_id: The tokenizer's pad token.
        device: ``cpu`` or ``cuda``.
        progress: Told after each batch.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with torch.inference_mode(), evaluating(model):
        for start in range(0, len(order), batch_rows):
            batch = order[start : start + batch_rows]
            tensors = pad_batch([rows[i] for i in batch], pad_id)
            losses = _batch_losses(model, {name: tensor.to(device) for name, tensor in tensors.items()})
            for i, (loss, count) in zip(batch, losses, strict=True):
                sums[i], counts[i] = loss, count
            progress(start + len(batch), len(rows))
    return RowLosses(sums, counts)


def _batch_losses(model: Any, batch: dict[str, torch.Tensor]) -> list[tuple[float, int]]:
    labels = batch.pop("shift_labels")
    scored = (labels != IGNORED).any(dim=0).nonzero().flatten()
    if len(scored) == 0:
        return [(0.0, 0)] * len(labels)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(**batch, use_cache=False, logits_to_keep=scored).logits
    else:
        logits = model(**batch, use_cache=False).logits[:, scored]
    found = []
    for row, wanted in zip(logits, labels[:, scored], strict=True):
        counts = wanted != IGNORED
        loss = torch.nn.functional.cross_entropy(row[counts].float(), wanted[counts], reduction="sum")
        found.append((float(loss), int(counts.sum())))
    return found
