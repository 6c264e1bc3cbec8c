import gzip
import json

import pytest

from celora.errors import DataError
from celora.tuning.prepare import read
from celora.tuning.prepare.findings import repeats


@pytest.fixture
def read_rows(tmp_path):
    def read_rows(rows, name="rows.jsonl"):
        path = tmp_path / name
        data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        read_rows.phases = []
        return read.read(path, {}, tmp_path, lambda event, **fields: read_rows.phases.append(fields))

    return read_rows


def pair(number, **more):
    return {"question": f"q{number} ada@example.org" if number % 7 == 0 else f"q{number}", "answer": "a", **more}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_good_rows_are_stored_and_noted(read_rows, name):
    data, notes = read_rows([pair(number) for number in range(50)], name)
    assert (data.good, len(data.rows), len(notes)) == (50, 50, 50)
    assert [row.line for row in data.rows] == list(range(1, 51))
    assert data.rows[3].messages[0]["content"] == "q3"
    assert notes.sensitive == {"e-mail": 8}


def test_bad_lines_are_counted_and_not_noted(read_rows):
    data, notes = read_rows([pair(1), "{", pair(2), pair(3, answer=7)])
    assert (data.good, data.bad.total, len(notes)) == (2, 2, 2)
    assert [bad.line for bad in data.bad.shown] == [2, 4]


def test_both_sides_of_preference_rows_are_stored_as_pairs(read_rows):
    written = [{"prompt": f"q{n} ada@example.org", "chosen": "a", "rejected": f"b{n}"} for n in range(300)]
    data, notes = read_rows([*written, written[0]])
    assert (len(data.rows), len(data.pairs), len(notes)) == (0, 602, 301)
    assert [row.messages[-1]["content"] for row in data.pairs[:4]] == ["a", "b0", "a", "b1"]
    assert notes.sensitive == {"e-mail": 301}
    assert repeats(notes).exact == 1


def test_progress_is_reported_in_bytes_of_the_file(read_rows, tmp_path):
    read_rows([pair(number) for number in range(3000)])
    size = (tmp_path / "rows.jsonl").stat().st_size
    assert (read_rows.phases[0]["total"], read_rows.phases[-1]["done"]) == (size, size)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read.read(tmp_path / "none.jsonl", {}, tmp_path, lambda *_, **__: None)
