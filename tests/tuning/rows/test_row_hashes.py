"""Row hashes: what makes two rows equal, and which rows of a file are new."""

import gzip
import json

import pytest

from celora.errors import DataError
from celora.tuning.protocol import IndexRequest
from celora.tuning.rows.data_file import BadRowsError
from celora.tuning.rows.row_hashes import HASH_BYTES, index, new_rows, row_hash

ROWS = [{"prompt": f"q{n}", "completion": f"é{n}"} for n in range(5)]


@pytest.fixture
def indexed(tmp_path):
    """What ``index`` finds in a file, and the hashes that it wrote."""

    def run(path):
        out = tmp_path / "hashes"
        request = IndexRequest(job="j", attempt=1, cache_dir=str(tmp_path), dataset=str(path), out_file=str(out))
        return index(request, lambda *_, **__: None), out.read_bytes()

    return run


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_a_row_is_what_it_holds():
    assert row_hash({"a": 1, "b": [2]}) == row_hash({"b": [2], "a": 1})
    assert row_hash({"a": 1}) != row_hash({"a": "1"})
    assert len(row_hash({})) == HASH_BYTES


def test_a_file_is_its_sorted_row_hashes(indexed, tmp_path):
    found, hashes = indexed(write(tmp_path / "x.jsonl", [*ROWS, ROWS[0]]))
    assert (found.rows, found.distinct_rows) == (6, 5)
    assert hashes == b"".join(sorted(map(row_hash, ROWS)))
    assert indexed(write(tmp_path / "y.jsonl.gz", ROWS[::-1]))[1] == hashes


def test_the_container_does_not_matter(indexed, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(ROWS))
    (tmp_path / "x.csv").write_text("completion,prompt\n" + "".join(f"é{n},q{n}\n" for n in range(5)))
    assert indexed(tmp_path / "x.json")[1] == indexed(tmp_path / "x.csv")[1]


def test_new_rows_are_told_once_and_in_their_order(indexed, tmp_path):
    known = indexed(write(tmp_path / "x.jsonl", ROWS[1:3]))[1]
    path = write(tmp_path / "y.jsonl", [ROWS[4], *ROWS, ROWS[0]])
    assert list(new_rows(path, known)) == [ROWS[4], ROWS[0], ROWS[3]]
    assert list(new_rows(path, b"")) == [ROWS[4], *ROWS[:4]]


def test_bad_lines_and_empty_files_are_refused(indexed, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(BadRowsError, match="line 2: invalid JSON"):
        indexed(path)
    with pytest.raises(DataError, match="line 2: invalid JSON"):
        list(new_rows(path, b""))
    path.write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        indexed(path)
