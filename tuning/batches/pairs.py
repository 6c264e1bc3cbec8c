# pyright: basic
# (torch and numpy ship incomplete types)
"""Cuts a run from preferences into micro batches, in the form that TRL's preference trainers take.

Pairs (``dpo``, ``orpo``): a new order each epoch, a pure function of seed and epoch; a micro batch holds whole pairs,
which stand by length within the window. Labelled answers (``kto``): one order for the whole run, a function of the seed
alone, cut into micro batches once. KTO estimates its reference point from each prompt of a micro batch with the answer
to the prompt before it, so the partners are a part of the run (arXiv 2402.01306, section 4.1).

The loss of a window is the mean over its pairs or answers, however the window is divided into micro batches.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .loss import IGNORED
from .prepared_set import PreparedSet
from .windows import Windows, cut

Row = tuple[Any, Any]
"""Tokens and mask of a prompt with one answer."""
Tensors = dict[str, torch.Tensor]
Form = Literal["dpo", "orpo"]


class PairBatches(Windows):
    """Cuts pairs of answers into micro batches.

    Args:
        rows: The prepared training rows, chosen and rejected answers in turns.
        seed: The job's seed.
        micro_batch: Pairs in one forward pass.
        accumulation: Forward passes per optimizer step.
        pad_id: The tokenizer's pad token.
        form: The trainer whose names the tensors have.
    """

    def __init__(
        self, rows: PreparedSet, *, seed: int, micro_batch: int, accumulation: int, pad_id: int, form: Form
    ) -> None:
        longer: list[int] = np.maximum(rows.lengths[::2], rows.lengths[1::2]).tolist()
        super().__init__(longer, count=len(longer), seed=seed, micro_batch=micro_batch, accumulation=accumulation)
        self.rows, self.pad_id, self._form = rows, pad_id, form
        self.sequences = range(len(longer))

    def collate(self, batch: Sequence[int]) -> Tensors:
        """Return the tensors of one micro batch: all chosen answers, then all rejected ones."""
        chosen = [self.rows[2 * i] for i in batch]
        rejected = [self.rows[2 * i + 1] for i in batch]
        tokens = torch.tensor(sum(len(row[0]) for row in (*chosen, *rejected)))
        if self._form == "dpo":
            return {**_padded([*chosen, *rejected], self.pad_id), "tokens": tokens}
        return {**_orpo(chosen, "chosen", self.pad_id), **_orpo(rejected, "rejected", self.pad_id), "tokens": tokens}

    def normaliser(self, batches: Sequence[Tensors]) -> int:
        """Return the pairs of a window: its loss is a mean over them."""
        return sum(pairs_of(batch) for batch in batches)


class LabelledBatches(Windows):
    """Cuts labelled answers into micro batches; order and partners stay the same in every epoch.

    Args:
        rows: The prepared training rows, with labels.
        seed: The job's seed.
        micro_batch: Answers in one forward pass, at least 2.
        accumulation: Forward passes per optimizer step.
        pad_id: The tokenizer's pad token.
        max_length: Most tokens of a prompt with an answer; a prompt with its partner's answer is cut there too.
    """

    def __init__(
        self, rows: PreparedSet, *, seed: int, micro_batch: int, accumulation: int, pad_id: int, max_length: int
    ) -> None:
        super().__init__(
            None, count=len(rows), seed=seed, micro_batch=micro_batch, accumulation=accumulation, each_epoch=False
        )
        self.rows, self.pad_id, self.max_length = rows, pad_id, max_length
        self.sequences = self.order(0)
        self.partners = partners(self.sequences, micro_batch)

    def collate(self, batch: Sequence[int]) -> Tensors:
        """Return the tensors of one micro batch: answers and labels, and each prompt with its partner's answer."""
        labels = self.rows.labels
        assert labels is not None  # noqa: S101  (kto's prepared rows have labels)
        rows = [self.rows[i] for i in batch]
        others = mismatched(self.rows, [(i, self.partners[i]) for i in batch], self.max_length)
        return {
            **_padded(rows, self.pad_id),
            **{f"KL_{name}": tensor for name, tensor in _padded(others, self.pad_id).items()},
            "label": torch.tensor([bool(labels[i]) for i in batch]),
            "tokens": torch.tensor(sum(len(tokens) for tokens, _ in rows)),
        }

    def normaliser(self, batches: Sequence[Tensors]) -> int:
        """Return the answers of a window: its loss is a mean over them."""
        return sum(len(batch["label"]) for batch in batches)


def partners(order: Sequence[int], micro_batch: int) -> dict[int, int]:
    """Return for each row the row whose answer its prompt gets, for KTO's reference point.

    Within a micro batch the answers move on by one place, as in TRL. A last micro batch of one row has no other answer,
    and takes that of the row before it.

    Example:
        Order 4, 1, 3, 0, 2 in micro batches of 2: 4 gets 1's answer and 1 gets 4's; 3 and 0 likewise; 2 gets 0's.
    """
    found: dict[int, int] = {}
    for batch in cut(order, micro_batch):
        found |= {row: batch[place - 1] for place, row in enumerate(batch)}
    if len(order) > 1 and len(order) % micro_batch == 1:
        found[order[-1]] = order[-2]
    return found


def mismatched(rows: PreparedSet, pairs: Sequence[tuple[int, int]], max_length: int) -> list[Row]:
    """Return prompts with the answers to other prompts: (row of the prompt, row of the answer), cut at the length."""
    made: list[Row] = []
    for asked, answered in pairs:
        tokens, mask = rows[asked]
        others, other_mask = rows[answered]
        prompt, start = answer_start(mask), answer_start(other_mask)
        joined = np.concatenate([tokens[:prompt], others[start:]])[:max_length]
        scored = np.concatenate([np.zeros(prompt, dtype=np.uint8), other_mask[start:]])[:max_length]
        made.append((joined, scored))
    return made


def answer_start(mask: Any) -> int:
    """Return the place of the first token that carries loss: the length of the prompt."""
    return int(np.argmax(np.asarray(mask) != 0))


def pairs_of(batch: Tensors) -> int:
    """Return the pairs of a micro batch in either form."""
    return len(batch["input_ids"]) // 2 if "input_ids" in batch else len(batch["chosen_input_ids"])


def _padded(rows: Sequence[Row], pad_id: int) -> Tensors:
    """Put rows side by side, padded on the right: input_ids, attention_mask and completion_mask."""
    ids, attention, scored = _arrays(rows, pad_id)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(attention),
        "completion_mask": torch.from_numpy(scored),
    }


def _orpo(rows: Sequence[Row], side: str, pad_id: int) -> Tensors:
    ids, attention, scored = _arrays(rows, pad_id)
    return {
        f"{side}_input_ids": torch.from_numpy(ids),
        f"{side}_attention_mask": torch.from_numpy(attention),
        f"{side}_labels": torch.from_numpy(np.where(scored != 0, ids, IGNORED)),
    }


def _arrays(rows: Sequence[Row], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    width = max(len(tokens) for tokens, _ in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention, scored = np.zeros_like(ids), np.zeros_like(ids)
    for i, (tokens, mask) in enumerate(rows):
        ids[i, : len(tokens)] = tokens
        attention[i, : len(tokens)] = 1
        scored[i, : len(tokens)] = mask
    return ids, attention, scored
