import gzip
import json

import pytest

from celora.settings.errors import DataError, LimitError
from celora.tuning import arrays, streams
from celora.tuning.containers import container, suffix_of
from celora.tuning.faults import BadLine
from celora.tuning.formats import read, require_good

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


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", WRITTEN)
def test_every_container_holds_the_same_rows(write, name, packed):
    path = write(name + packed, WRITTEN[name](ROWS))
    data = read(path)
    require_good(data)
    said = [[message["content"] for message in row.messages] for row in data.rows]
    assert said == [[row["prompt"], row["completion"]] for row in ROWS]
    assert data.size_bytes == path.stat().st_size


@pytest.mark.parametrize("chunk", [3, 4, 7, 64])
def test_an_array_is_read_the_same_however_its_bytes_are_cut(write, monkeypatch, chunk):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk)
    for content in (as_json(ROWS), as_pretty_json(ROWS), b"\xef\xbb\xbf \n" + as_json(ROWS) + b"\n "):
        found = list(container(write("rows.json", content)))
        assert [record.value for record in found] == ROWS


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


@pytest.mark.parametrize(
    ("name", "content", "place", "kind"),
    [
        ("a.json", b'[\n {"prompt": "a",\n  "completion": 7}\n]', (3, 17), "not_text"),
        ("a.json", '[{"prompt": "ä", "completion": 7}]'.encode(), (1, 32), "not_text"),
        (
            "a.json",
            '[{"prompt": "ä", "completion": "b"}, {"prompt": 7, "completion": "c"}]'.encode(),
            (1, 49),
            "not_text",
        ),
        ("a.json", b'[{"prompt": "a" "completion": "b"}]', (1, 17), "bad_json"),
        ("a.json", b'[{"prompt": "a", "completion": "b"}\n {"prompt": "a", "completion": "b"}]', (2, 2), "bad_json"),
        ("a.json", b'[{"prompt": "a", "completion": "b"},\n]', (2, 1), "bad_json"),
        ("a.json", b'[{"prompt": "a", "completion": "b"}', (1, 36), "bad_json"),
        ("a.json", b'[{"prompt": "a", "completion": "b"}] 7', (1, 38), "bad_json"),
        ("a.json", b'[{"prompt": "a",\n', (1, 2), "bad_json"),
        ("a.json", b'[["prompt", "a"]]', (1, 2), "array"),
        ("a.json", b'[7, "b"]', (1, 2), "not_an_object"),
        ("a.json", b"7", (1, 1), "bad_json"),
        ("a.json", b'{"data": [\n]}', (1, 1), "not_an_array"),
        ("a.csv", b'prompt,completion\n"a, b",""\n', (2, 8), "empty"),
        ("a.csv", b'prompt,completion\n"a\nb"," "\n', (3, 4), "empty"),
        ("a.csv", b"prompt,completion\na,b,c\n", (2, 4), "bad_csv"),
        ("a.csv", b'prompt,completion\n"a"b,c\n', (2, 1), "bad_csv"),
        ("a.csv", b'prompt,completion\n"a,b\n', (2, 1), "bad_csv"),
        ("a.csv", b"prompt,prompt\na,b\n", (1, 1), "bad_header"),
        ("a.csv", b"messages\n[7\n", (2, 1), "bad_json"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column_of_the_file(write, name, content, place, kind):
    data = read(write(name, content))
    bad = data.bad.shown[0]
    assert ((bad.line, bad.column), bad.kind) == (place, kind), bad


def test_bytes_inside_an_element_are_named_by_line_and_byte(write):
    bad = read(write("a.json", b'[\n{"prompt": "\xc3\xa4 caf\xe9"}]')).bad.shown[0]
    assert (bad.line, bad.column, bad.byte, bad.kind) == (2, None, 19, "not_utf8")


def test_a_parquet_row_is_named_by_row_and_column(write):
    rows = [*ROWS, {"prompt": "a", "completion": " "}, {"prompt": "a\0", "completion": "b"}]
    bad = read(write("rows.parquet", as_parquet(rows))).bad.shown
    assert [(one.line, one.column, one.kind) for one in bad] == [(4, 2, "empty"), (5, 1, "nul")]


def test_the_fields_that_parquet_fills_up_with_nulls_are_gone(write):
    function = {"name": "stock", "arguments": '{"item": 7}'}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Stock?"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]},
                {"role": "tool", "content": "12", "tool_call_id": "c1"},
                {"role": "assistant", "content": "12."},
            ]
        }
    ]
    data = read(write("rows.parquet", as_parquet(rows)))
    require_good(data)
    assert data.rows[0].weights == [0, 1, 0, 1]
    assert "tool_calls" not in data.rows[0].messages[3]


def test_a_csv_may_use_semicolons_and_hold_messages_as_json(write):
    messages = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    data = read(write("rows.csv", f'id;messages\n1;"{messages.replace(chr(34), chr(34) * 2)}"\n\n'.encode()))
    require_good(data)
    assert data.rows[0].weights == [0, 1]
    assert data.blank_lines == 1
    assert any("';'" in note for note in data.notes)


def test_a_gzip_that_unpacks_to_too_much_is_refused_by_ratio_and_by_size(write, monkeypatch):
    monkeypatch.setattr(streams, "FREE_BYTES", 1000)
    bomb = write("rows.jsonl.gz", b" " * 10_000_000)
    with pytest.raises(LimitError, match="more than 200 times its size"):
        read(bomb)
    monkeypatch.setattr(streams, "MAX_RATIO", 10_000)
    monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(LimitError, match=r"more than 0\.0009\d* GiB"):
        read(bomb)


def test_progress_is_told_in_bytes_of_the_file(write):
    path = write("rows.jsonl.gz", as_jsonl(ROWS * 2000))
    file = container(path)
    seen = [file.done_bytes for record in file if not isinstance(record, BadLine)]
    assert 0 < seen[len(seen) // 2] <= path.stat().st_size
    assert file.done_bytes == path.stat().st_size


def test_a_name_says_what_a_file_holds():
    names = ["a.jsonl", "A.JSONL.GZ", "data/b.json.gz", "c.parquet", "d.csv", "e.tar.gz", "f.txt", "jsonl"]
    assert [suffix_of(name) for name in names] == [".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".csv", "", "", ""]


@pytest.mark.parametrize(("name", "words"), [("x.txt", "none of the files"), ("x.tar.gz", "none of the files")])
def test_another_kind_of_file_is_refused_with_the_kinds_there_are(write, name, words):
    with pytest.raises(DataError, match=words) as caught:
        read(write(name, b"x"))
    assert ".parquet" in caught.value.hint
