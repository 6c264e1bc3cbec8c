import json

import pytest

from celora.errors import DataError
from celora.tuning.files.faults import BadLine
from celora.tuning.files.readers import container
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read

ROWS = [
    {"prompt": "2+2?", "completion": "4"},
    {"prompt": 'naïve "quoted", \\ and {braces} ]', "completion": "line one\nline two \U0001f600"},
    {"prompt": "And 3+3?", "completion": "6, twice"},
]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows):
    return json.dumps(rows, ensure_ascii=False).encode()


def as_pretty_json(rows):
    return json.dumps(rows, indent=2).encode()


def as_csv(rows):
    def cell(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [",".join(cell(text) for text in row.values()) for row in rows]
    return "\n".join(["prompt,completion", *lines]).encode() + b"\n"


def as_parquet(rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITTEN = {
    "rows.jsonl": as_jsonl, "rows.json": as_json, "pretty.json": as_pretty_json, "rows.csv": as_csv,
    "rows.parquet": as_parquet, "lines.json": as_jsonl,
}  # fmt: skip


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", WRITTEN)
def test_every_container_holds_the_same_rows(write, name, packed):
    path = write(name + packed, WRITTEN[name](ROWS))
    data = read(path)
    require_good(data)
    said = [[message["content"] for message in row.messages] for row in data.rows]
    assert said == [[row["prompt"], row["completion"]] for row in ROWS]
    assert data.size_bytes == path.stat().st_size


def test_rows_are_numbered_by_their_lines_and_parquets_by_their_rows(write):
    numbers = {name: [record.number for record in container(write(name, made(ROWS)))] for name, made in WRITTEN.items()}
    assert numbers == {
        "rows.jsonl": [1, 2, 3],
        "lines.json": [1, 2, 3],
        "rows.json": [1, 1, 1],
        "pretty.json": [2, 6, 10],
        "rows.csv": [2, 3, 5],
        "rows.parquet": [1, 2, 3],
    }


def test_progress_is_told_in_bytes_of_the_file(write):
    path = write("rows.jsonl.gz", as_jsonl(ROWS * 2000))
    file = container(path)
    seen = [file.done_bytes for record in file if not isinstance(record, BadLine)]
    assert 0 < seen[len(seen) // 2] <= path.stat().st_size
    assert file.done_bytes == path.stat().st_size


@pytest.mark.parametrize(("name", "words"), [("x.txt", "none of the files"), ("x.tar.gz", "none of the files")])
def test_another_kind_of_file_is_refused_with_the_kinds_there_are(write, name, words):
    with pytest.raises(DataError, match=words) as caught:
        read(write(name, b"x"))
    assert ".parquet" in caught.value.hint
