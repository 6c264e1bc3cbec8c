# pyright: basic
# (torch ships incomplete types)
"""Measures the loss of each held-out row: for the trainer's own evaluation and for the evaluate stage.

The definition is loss.py's: nats per trained token. The losses are kept by row, because a mean hides the rows that
got worse; their weighted mean over a set is that set's eval loss. Both stages make the same batches: in 16-bit
arithmetic the shape of a batch moves the result as far as two swapped layers do (verification.LOSS_TOLERANCE), and the
check of an adapter compares the two.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .loss import IGNORED, Rows, evaluating, keeps_logits, pad_batch

Progress = Callable[[int, int], None]
"""A function ``progress(done, total)``, in rows."""


@dataclass(frozen=True)
class RowLosses:
    """Holds the losses of a set's rows, in the set's order.

    Attributes:
        sums: Summed negative log likelihood of each row's trained tokens, nats.
        tokens: Number of trained tokens of each row.
        followed: Trained tokens at the start of each row that are the model's likeliest ones by a margin; empty unless
            requested.
        right: Trained tokens of each row that are the model's likeliest ones; empty where nobody counted them.
    """

    sums: list[float]
    tokens: list[int]
    followed: list[int] = field(default_factory=list[int])
    right: list[int] = field(default_factory=list[int])

    @property
    def mean(self) -> float:
        """Return nats per trained token over the whole set; NaN where no token is trained."""
        return sum(self.sums) / sum(self.tokens) if any(self.tokens) else float("nan")

    @property
    def accuracy(self) -> float | None:
        """Return the share of the trained tokens that are the model's likeliest ones; None where nobody counted."""
        return sum(self.right) / sum(self.tokens) if self.right and any(self.tokens) else None

    def of_row(self, index: int) -> float | None:
        """Return nats per trained token of one row; None where it has none."""
        return self.sums[index] / self.tokens[index] if self.tokens[index] else None


def row_losses(
    model: Any,
    rows: Rows,
    *,
    batch_rows: int,
    pad_id: int,
    device: str,
    progress: Progress = lambda _d, _t: None,
    margin: float | None = None,
) -> RowLosses:
    """Return the loss of each row under the model as it is (adapter on or off).

    Args:
        model: A causal language model of transformers, bare or wrapped by PEFT; its train or eval mode is kept.
        rows: Prepared rows.
        batch_rows: Rows in one forward pass; another number changes the result by rounding only.
        pad_id: The tokenizer's pad token.
        device: ``cpu`` or ``cuda``.
        progress: Called after each batch.
        margin: Count the tokens that the model follows, as likeliest by so many logits.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    followed, right = [0] * len(rows), [0] * len(rows)
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(order), batch_rows):
            batch = order[start : start + batch_rows]
            tensors = pad_batch([rows[i] for i in batch], pad_id)
            found = _batch_losses(model, {name: tensor.to(device) for name, tensor in tensors.items()}, margin)
            for i, (loss, count, follows, likeliest) in zip(batch, found, strict=True):
                sums[i], counts[i], followed[i], right[i] = loss, count, follows, likeliest
            progress(start + len(batch), len(rows))
    return RowLosses(sums, counts, [] if margin is None else followed, right)


def _batch_losses(
    model: Any, batch: dict[str, torch.Tensor], margin: float | None
) -> list[tuple[float, int, int, int]]:
    """Return loss, trained, followed and likeliest tokens of each row; read from the device once a batch."""
    labels = batch.pop("shift_labels")
    scored = (labels != IGNORED).any(dim=0).nonzero().flatten()
    if len(scored) == 0:
        return [(0.0, 0, 0, 0)] * len(labels)
    if keeps_logits(model):
        logits = model(**batch, use_cache=False, logits_to_keep=scored).logits
    else:
        logits = model(**batch, use_cache=False).logits[:, scored]
    losses: list[torch.Tensor] = []
    followed: list[torch.Tensor] = []
    counted = labels[:, scored] != IGNORED
    for row, wanted, counts in zip(logits, labels[:, scored], counted, strict=True):
        losses.append(torch.nn.functional.cross_entropy(row[counts].float(), wanted[counts], reduction="sum"))
        followed.append(counts.sum() * 0 if margin is None else _followed(row[counts], wanted[counts], margin))
    right = (logits.argmax(dim=-1) == labels[:, scored]).sum(dim=1)
    columns = torch.stack(losses), counted.sum(dim=1), torch.stack(followed), right
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _followed(logits: torch.Tensor, wanted: torch.Tensor, margin: float) -> torch.Tensor:
    """Count the tokens before the first one that is not the likeliest by a margin."""
    likeliest = logits.float().topk(2)
    sure = (likeliest.indices[:, 0] == wanted) & (likeliest.values[:, 0] - likeliest.values[:, 1] > margin)
    return sure.long().cumprod(dim=0).sum()
