import numpy as np
import pytest

from celora.tuning.batches.packing import GOOD, _places, alone, pack


def sequences(bins):
    return [bins[index].tolist() for index in range(len(bins))]


def row_by_row(lengths, capacity):
    """Best fit decreasing as the book says it, one row at a time: the room that each sequence has left."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


def test_a_sequence_takes_the_longest_rows_and_is_filled_to_the_last_token_where_it_can_be():
    assert sequences(pack([7, 6, 4, 3], 10)) == [[0, 3], [1, 2]]
    assert sequences(pack([5, 4, 3, 2, 1, 3], 10)) == [[0, 1, 4], [2, 5, 3]]
    assert sequences(pack([6, 4, 3, 3], 10)) == [[0, 1], [2, 3]]
    assert sequences(pack([3, 3, 3, 3], 7)) == [[0, 1], [2, 3]]


def test_a_row_longer_than_a_sequence_has_one_of_its_own():
    assert sequences(pack([12, 3], 10)) == [[0], [1]]


def test_nothing_packs_into_nothing():
    assert len(pack([], 10)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_row_has_one_place_and_there_are_no_more_sequences_than_best_fit_finds(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(5, 60))
    lengths = rng.integers(1, capacity + 1, int(rng.integers(1, 200)))
    packed = pack(lengths, capacity)
    assert sorted(packed.rows.tolist()) == list(range(len(lengths)))
    assert packed.totals(lengths).max() <= capacity
    fewest = -(-int(lengths.sum()) // capacity)
    assert fewest <= len(packed) <= max(GOOD * fewest, len(row_by_row(lengths.tolist(), capacity)))


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_of_equal_rows_together_is_the_same_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(5, 60))
    lengths = np.sort(rng.integers(1, capacity + 1, int(rng.integers(1, 200))))[::-1]
    rooms = capacity - np.bincount(_places(lengths, capacity), weights=lengths)
    assert sorted(rooms.astype(int).tolist()) == row_by_row(lengths.tolist(), capacity)


def test_long_rows_of_a_small_set_fill_their_sequences_to_99_5_percent_where_best_fit_does_not():
    """Lengths as GSM8K's are: 7,473 rows of 97 tokens at least, 217 on average, 570 at most."""
    rng = np.random.default_rng(3)
    lengths = np.minimum(97 + rng.gamma(2.9, 41.5, 7473).astype(int), 570)
    full = lengths.sum() / 2048
    assert full / len(row_by_row(lengths.tolist(), 2048)) < 0.99
    assert full / len(pack(lengths, 2048)) > 0.995


@pytest.mark.parametrize("capacity", [2048, 8192])
def test_lognormal_rows_fill_their_sequences_to_99_5_percent(capacity):
    rng = np.random.default_rng(2)
    lengths = np.minimum(rng.lognormal(5.6, 0.8, 20_000).astype(int) + 1, 2048)
    packed = pack(lengths, capacity)
    assert sorted(packed.rows.tolist()) == list(range(20_000))
    assert packed.totals(lengths).max() <= capacity
    assert lengths.sum() / (capacity * len(packed)) > 0.995


def test_the_packing_is_pinned_so_that_a_resumed_run_sees_the_same_sequences():
    lengths = np.arange(40) * 7 % 23 + 1
    packed = pack(lengths, 32)
    assert packed.rows.tolist()[:12] == [13, 11, 36, 34, 3, 21, 16, 8, 39, 31, 6, 18]
    assert packed.offsets.tolist()[:6] == [0, 2, 4, 6, 8, 10]


def test_rows_alone_are_sequences_in_their_order():
    assert sequences(alone(3)) == [[0], [1], [2]]
    assert alone(3).totals(np.array([4, 5, 6])).tolist() == [4, 5, 6]


@pytest.mark.parametrize(("lengths", "capacity"), [([0, 1], 4), ([1], 0)])
def test_lengths_and_capacity_are_at_least_one(lengths, capacity):
    with pytest.raises(ValueError, match="at least 1"):
        pack(lengths, capacity)
