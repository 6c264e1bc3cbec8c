# pyright: basic
# (torch and transformers ship incomplete types)
"""Defines the loss: for training, for the trainer's own evaluation and for the evaluate stage (row_losses.py).

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
"""The label of a position that carries no loss, as is usual in the field."""

LOGITS_AT_ONCE = 2**28
"""Logits whose fp32 copy is made at once (1 GiB); more logits are scored in pieces, recomputed in the backward pass."""


class Rows(Protocol):
    """Prepared rows: token ids and, for each, whether it carries loss."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


def next_token_labels(tokens: Any, mask: Any) -> np.ndarray:
    """Return the labels of one row, shifted: position i holds token i + 1 where that token carries loss, else -100.

    Example:
        tokens [5, 6, 7], mask [0, 0, 1] give [-100, 7, -100].
    """
    tokens, mask = np.asarray(tokens, dtype=np.int64), np.asarray(mask)
    labels = np.full(len(tokens), IGNORED, dtype=np.int64)
    labels[:-1] = np.where(mask[1:] != 0, tokens[1:], IGNORED)
    return labels


def pad_batch(rows: Sequence[tuple[Any, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Put rows side by side, padded on the right: input_ids, attention_mask and shift_labels, each (rows, longest)."""
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


def summed_loss(
    model: Callable[..., Any], batch: dict[str, torch.Tensor], right: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Return the sum of the negative log likelihood over a batch's scored positions, fp32, differentiable.

    Args:
        model: A causal language model of transformers, bare or wrapped by PEFT or accelerate.
        batch: The inputs of the model's forward, and ``shift_labels`` (rows, length), -100 where nothing is scored.
        right: Receives the number of scored tokens that are the model's likeliest ones, on the device.
    """
    inputs = {name: value for name, value in batch.items() if name != "shift_labels"}
    labels = batch["shift_labels"]
    scored = (labels != IGNORED).any(dim=0).nonzero().flatten()
    if len(scored) == 0:  # a batch without a trained token still has a loss (0) and a gradient (0)
        scored = scored.new_zeros(1)
    if keeps_logits(model):
        logits = model(**inputs, use_cache=False, logits_to_keep=scored).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, scored]
    flat, wanted = logits.flatten(0, 1), labels[:, scored].flatten()
    if right is not None:
        right.append((flat.detach().argmax(dim=-1) == wanted).sum())
    return _nll(flat, wanted)


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """Put the model in eval mode (no dropout) for the block, and back in its previous mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def keeps_logits(model: Any) -> bool:
    """Return whether a model's forward takes ``logits_to_keep``: its output head then runs on those positions alone."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters


def _nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    rows = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    if len(labels) <= rows:
        return _piece(logits, labels)
    pieces = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.stack([checkpoint(_piece, *piece, use_reentrant=False) for piece in pieces]).sum()


def _piece(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
