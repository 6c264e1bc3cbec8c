import errno
import sqlite3

import pytest

from celora.errors import DataError, DiskFullError
from celora.storage import disk_space
from celora.storage.disk_space import disk_full, existing, has_filled, is_no_space, room


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 99136 vs 99024"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_library_s_words_for_a_full_disk_are_understood(tmp_path, error):
    with pytest.raises(DiskFullError), room(tmp_path):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), RuntimeError("shape mismatch")])
def test_other_errors_pass_through(tmp_path, error):
    with pytest.raises(type(error)), room(tmp_path):
        raise error


def test_our_own_errors_pass_through_since_they_name_the_place(tmp_path):
    with pytest.raises(DataError, match="line 3"), room(tmp_path):
        raise DataError("No space left in line 3.")


def test_a_write_that_cannot_fit_is_refused_before_it_begins(tmp_path):
    begun = []
    with pytest.raises(DiskFullError, match=r"needed, .* free") as caught, room(tmp_path, 2**60, what="the weights"):
        begun.append(1)
    assert begun == []
    assert "for the weights at" in caught.value.message
    assert caught.value.facts["need_bytes"] == 2**60
    assert caught.value.facts["free_bytes"] < 2**60


def test_the_place_may_be_one_that_is_not_made_yet(tmp_path):
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert str(tmp_path / "a" / "b") in disk_full(tmp_path / "a" / "b").message


def test_sqlite_s_own_words_count_as_a_full_disk(tmp_path):
    assert is_no_space(sqlite3.OperationalError("database or disk is full"))
    assert has_filled(tmp_path, "database or disk is full")


def test_an_error_of_input_and_output_is_a_full_disk_only_where_nothing_is_free(tmp_path, monkeypatch):
    assert not has_filled(tmp_path, "disk I/O error")
    monkeypatch.setattr(disk_space, "NEARLY_FULL_BYTES", 2**62)
    assert has_filled(tmp_path, "disk I/O error")
