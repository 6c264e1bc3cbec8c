import numpy as np
import pytest

from celora.tuning.batches.prepared_set import permutation
from celora.tuning.batches.windows import Windows, cut

SIZES = {"micro_batch": 2, "accumulation": 2}


def test_every_sequence_is_visited_once_an_epoch_in_an_order_of_seed_and_epoch():
    windows = Windows(None, count=11, seed=7, **SIZES)
    epochs = [[row for step in range(3) for batch in windows.window(3 * epoch + step) for row in batch]
              for epoch in range(2)]  # fmt: skip
    assert epochs == [permutation(11, 7, epoch).tolist() for epoch in range(2)]
    assert epochs[0] != epochs[1]
    assert windows.steps_per_epoch == 3


def test_sequences_stand_by_length_within_their_window_alone():
    lengths = np.arange(11)[::-1]
    plain, sorted_ = Windows(None, count=11, seed=7, **SIZES), Windows(lengths, count=11, seed=7, **SIZES)
    for step in range(6):
        (rows, ordered) = ([row for batch in each.window(step) for row in batch] for each in (plain, sorted_))
        assert ordered == sorted(rows, reverse=True)


def test_one_order_of_the_whole_run_is_that_of_the_seed_alone():
    windows = Windows(None, count=8, seed=5, each_epoch=False, **SIZES)
    assert windows.window(0) == windows.window(2) == windows.window(20)
    assert windows.order(3) == permutation(8, 5).tolist()


@pytest.mark.parametrize(("step", "epochs"), [(0, 0.0), (1, 2 / 6), (2, 4 / 6), (3, 1.0), (7, 2 + 2 / 6)])
def test_epochs_count_micro_batches(step, epochs):
    assert Windows(None, count=11, seed=0, **SIZES).epochs_after(step) == pytest.approx(epochs)


def test_the_last_micro_batch_may_be_shorter():
    assert cut([5, 3, 1], 2) == [[5, 3], [1]]
