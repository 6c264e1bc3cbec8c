"""Micro batches of preferences: whole pairs in an order a run can find again, and KTO's partners."""

import numpy as np
import pytest

from celora.tuning.batches.pairs import LabelledBatches, PairBatches, mismatched, partners
from celora.tuning.batches.prepared_set import PreparedSet


def prepared(rows):
    """Rows as (prompt, answer); the labels alternate."""
    tokens = [np.array([*prompt, *answer], dtype=np.int32) for prompt, answer in rows]
    masks = [np.array([0] * len(prompt) + [1] * len(answer), dtype=np.uint8) for prompt, answer in rows]
    offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    labels = np.array([1, 0] * (len(rows) // 2) + [1] * (len(rows) % 2), dtype=np.uint8)
    return PreparedSet("train", np.concatenate(tokens), np.concatenate(masks), offsets, labels)


ROWS = prepared([([n, n], [10 + n] * (n % 4 + 1)) for n in range(1, 21)])


def batches(kind, **settings):
    settings = {"seed": 3, "micro_batch": 2, "accumulation": 2, "pad_id": 0, **settings}
    more = {"form": "dpo"} if kind is PairBatches else {"max_length": 64}
    return kind(ROWS, **settings, **more)


def test_an_epoch_visits_every_pair_once_and_the_next_in_another_order():
    cut = batches(PairBatches)
    epochs = [[i for step in range(3) for batch in cut.window(first + step) for i in batch] for first in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert batches(PairBatches).window(4) == cut.window(4)
    assert cut.epochs_after(3) == 1.0


def test_a_micro_batch_of_pairs_holds_the_chosen_answers_and_then_the_rejected_ones():
    tensors = batches(PairBatches).collate([0, 3])
    assert tensors["input_ids"][:, 0].tolist() == [1, 7, 2, 8]
    assert tensors["completion_mask"].sum(dim=1).tolist() == [2, 4, 3, 1]
    assert tensors["attention_mask"].sum(dim=1).tolist() == [4, 6, 5, 3]
    assert int(tensors["tokens"]) == 18


def test_orpo_gets_the_same_rows_under_its_own_names():
    cut = PairBatches(ROWS, seed=3, micro_batch=2, accumulation=1, pad_id=0, form="orpo")
    tensors = cut.collate([0])
    assert tensors["chosen_input_ids"].tolist() == [[1, 1, 11, 11]]
    assert tensors["chosen_labels"].tolist() == [[-100, -100, 11, 11]]
    assert tensors["rejected_labels"].tolist() == [[-100, -100, 12, 12, 12]]
    assert cut.normaliser([tensors, tensors]) == 2


@pytest.mark.parametrize(
    ("micro_batch", "found"),
    [(2, {4: 1, 1: 4, 3: 0, 0: 3, 2: 0}), (3, {4: 3, 1: 4, 3: 1, 0: 2, 2: 0}), (5, {4: 2, 1: 4, 3: 1, 0: 3, 2: 0})],
)
def test_answers_move_on_by_one_within_a_micro_batch_and_the_last_row_takes_its_neighbours(micro_batch, found):
    assert partners([4, 1, 3, 0, 2], micro_batch) == found


def test_labelled_answers_have_one_order_for_the_whole_run():
    cut = batches(LabelledBatches)
    assert [cut.window(step) for step in range(5)] == [cut.window(step + 5) for step in range(5)]
    assert cut.window(0) != batches(LabelledBatches, seed=4).window(0)
    assert sorted(i for step in range(5) for batch in cut.window(step) for i in batch) == list(range(20))


def test_a_prompt_gets_its_partners_answer_and_the_length_holds_for_it_too():
    assert [(tokens.tolist(), mask.tolist()) for tokens, mask in mismatched(ROWS, [(0, 2), (2, 0)], 5)] == [
        ([1, 1, 13, 13, 13], [0, 0, 1, 1, 1]),
        ([3, 3, 11, 11], [0, 0, 1, 1]),
    ]
    tensors = batches(LabelledBatches).collate(batches(LabelledBatches).window(0)[0])
    assert tensors["KL_input_ids"][:, 0].tolist() == tensors["input_ids"][:, 0].tolist()
    assert tensors["label"].dtype.is_floating_point is False
