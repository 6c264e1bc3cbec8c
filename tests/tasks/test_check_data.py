"""The task is a shell: it makes the check that it names, and an unknown one costs nothing."""

from celora.tasks.check_data import check_data


def test_a_check_that_is_gone_is_nothing_to_do(record):
    assert check_data("check-none") is None
