# pyright: basic
# (torch and transformers ship incomplete types)
"""One definition of the loss, for training, for the trainer's own evaluation and for the evaluate stage.

The loss of a set is the mean negative log likelihood per trained token, in nats: a token counts where its mask is 1,
and it is predicted from everything before it in its row, so the first token of a row never counts. Only the positions
that are scored go through the output head (``logits_to_keep``); every model applies its own head, scaling and capping.
"""

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""The label of a position that carries no loss, as everywhere in the field."""

LOGITS_AT_ONCE = 2**28
"""Logits whose fp32 copy is made at once (1 GiB); more are scored in pieces, recomputed in the backward pass."""


class Rows(Protocol):
    """Prepared rows: token ids and, for each, whether it carries loss."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


def next_token_labels(tokens: Any, mask: Any) -> np.ndarray:
    """Labels of one row, shifted: position i holds token i + 1 where that token carries loss, else -100.

    Example:
        tokens [5, 6, 7], mask [0, 0, 1] give [-100, 7, -100].
    """
    tokens, mask = np.asarray(tokens, dtype=np.int64), np.asarray(mask)
    labels = np.full(len(tokens), IGNORED, dtype=np.int64)
    labels[:-1] = np.where(mask[1:] != 0, tokens[1:], IGNORED)
    return labels


def pad_batch(rows: Sequence[tuple[Any, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows side by side, padded on the right: input_ids, attention_mask and shift_labels, each (rows, longest)."""
    width = max(len(tokens) for tokens, _ in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for i, (tokens, mask) in enumerate(rows):
        ids[i, : len(tokens)] = tokens
        attention[i, : len(tokens)] = 1
        labels[i, : len(tokens)] = next_token_labels(tokens, mask)
    arrays = {"input_ids": ids, "attention_mask": attention, "shift_labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def summed_loss(model: Callable[..., Any], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the negative log likelihood over a batch's scored positions, fp32, differentiable.

    Args:
        model: A causal language model of transformers, bare or wrapped by PEFT or accelerate.
        batch: What the model's forward takes, and ``shift_labels`` (rows, length), -100 where nothing is scored.
    """
    inputs = {name: value for name, value in batch.items() if name != "shift_labels"}
    labels = batch["shift_labels"]
    scored = (labels != IGNORED).any(dim=0).nonzero().flatten()
    if len(scored) == 0:  # a batch without a trained token still has a loss (0) and a gradient (0)
        scored = scored.new_zeros(1)
    if _keeps_logits(model):
        logits = model(**inputs, use_cache=False, logits_to_keep=scored).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, scored]
    return _nll(logits.flatten(0, 1), labels[:, scored].flatten())


def eval_loss(
    model: Any,
    prepared_set: Rows,
    batch_rows: int,
    pad_id: int,
    device: str,
    *,
    progress: Callable[[int, int], None] = lambda _d, _t: None,
) -> float:
    """Mean negative log likelihood per trained token over a whole prepared set, in nats.

    Args:
        model: The model as it is to be judged (adapter on or off); its train or eval mode is kept.
        prepared_set: The rows.
        batch_rows: Rows in one forward pass; it changes the result by rounding only.
        pad_id: The tokenizer's pad token.
        device: ``cpu`` or ``cuda``.
        progress: Told after each batch: rows done, rows in all.
    """
    order = sorted(range(len(prepared_set)), key=lambda i: -len(prepared_set[i][0]))
    total, count = 0.0, 0
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(order), batch_rows):
            batch = pad_batch([prepared_set[i] for i in order[start : start + batch_rows]], pad_id)
            trained = int((batch["shift_labels"] != IGNORED).sum())
            if trained:
                total += float(summed_loss(model, {name: value.to(device) for name, value in batch.items()}))
                count += trained
            progress(min(start + batch_rows, len(order)), len(order))
    return total / count if count else float("nan")


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """The model in eval mode (no dropout), and back in the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _keeps_logits(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters


def _nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    rows = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    if len(labels) <= rows:
        return _piece(logits, labels)
    pieces = zip(logits.split(rows), labels.split(rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.stack([_piece(*piece) for piece in pieces]).sum()
    return torch.stack([checkpoint(_piece, *piece, use_reentrant=False) for piece in pieces]).sum()


def _piece(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
