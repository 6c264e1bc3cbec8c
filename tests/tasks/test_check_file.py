"""The task is a shell: it checks the file that it names, and an unknown one costs nothing."""

from celora.tasks.check_file import check_file


def test_a_file_that_is_gone_is_nothing_to_check(record):
    assert check_file("file-none") is None
