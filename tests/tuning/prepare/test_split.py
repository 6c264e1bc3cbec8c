import numpy as np

from celora.tuning.prepare.split import split


def test_a_share_of_the_rows_is_held_out_and_the_seed_says_which():
    keys = np.arange(1000)
    held = split(keys, 0.1, 7)
    assert held.sum() == 100
    assert (split(keys, 0.1, 7) == held).all()
    assert (split(keys, 0.1, 8) != held).any()


def test_which_rows_are_held_out_is_pinned_and_does_not_hang_on_the_keys_values():
    assert np.flatnonzero(split(np.arange(20), 0.2, 3)).tolist() == [0, 4, 7, 9]
    assert np.flatnonzero(split(-(np.arange(20) ** 3), 0.2, 3)).tolist() == [0, 4, 7, 9]


def test_equal_rows_stay_on_one_side():
    keys = np.arange(300) // 3 % 50
    held = split(keys, 0.25, 1)
    assert 0 < held.sum() <= 75
    assert not set(keys[held].tolist()) & set(keys[~held].tolist())


def test_the_smallest_group_is_held_out_where_every_one_is_too_large():
    keys = np.array([0] * 10 + [1] * 6 + [2] * 8)
    assert split(keys, 0.01, 5).sum() in (6, 8)


def test_nothing_is_held_out_of_rows_that_are_all_equal():
    assert not split(np.zeros(9, dtype=np.int64), 0.5, 1).any()
    assert not split(np.zeros(1, dtype=np.int64), 0.5, 1).any()
