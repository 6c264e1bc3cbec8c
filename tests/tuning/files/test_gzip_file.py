import pytest

from celora.errors import LimitError
from celora.tuning.files import gzip_file
from celora.tuning.rows.row_reader import read


def test_a_gzip_that_unpacks_to_too_much_is_refused_by_ratio_and_by_size(write, monkeypatch):
    monkeypatch.setattr(gzip_file, "FREE_BYTES", 1000)
    bomb = write("rows.jsonl.gz", b" " * 10_000_000)
    with pytest.raises(LimitError, match="more than 200 times its size"):
        read(bomb)
    monkeypatch.setattr(gzip_file, "MAX_RATIO", 10_000)
    monkeypatch.setattr(gzip_file, "MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(LimitError, match=r"more than 0\.0009\d* GiB"):
        read(bomb)
