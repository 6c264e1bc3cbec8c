import json

import pytest

from celora.tuning.files import json_array, jsonl
from celora.tuning.files.readers import container
from celora.tuning.rows.row_reader import read

ROWS = [
    {"prompt": "2+2?", "completion": "4"},
    {"prompt": 'naïve "quoted", \\ and {braces} ]', "completion": "line one\nline two \U0001f600"},
    {"prompt": "And 3+3?", "completion": "6, twice"},
]


def as_json(rows):
    return json.dumps(rows, ensure_ascii=False).encode()


def as_pretty_json(rows):
    return json.dumps(rows, indent=2).encode()


@pytest.mark.parametrize("chunk", [4, 5, 7, 64])
def test_an_array_is_read_the_same_however_its_bytes_are_cut(write, monkeypatch, chunk):
    monkeypatch.setattr(json_array, "CHUNK_BYTES", chunk)
    for content in (as_json(ROWS), as_pretty_json(ROWS), b"\xef\xbb\xbf \n" + as_json(ROWS) + b"\n "):
        found = list(container(write("rows.json", content)))
        assert [record.value for record in found] == ROWS


@pytest.mark.parametrize("chunk", [4, 9, 1 << 18])
@pytest.mark.parametrize(
    ("content", "place", "kind", "words"),
    [
        (b'[\n {"prompt": "a",\n  "completion": 7}\n]', (2, "completion"), "not_text", "completion is a number"),
        ('[{"prompt": "ä", "completion": 7}]'.encode(), (1, "completion"), "not_text", "completion is a number"),
        (b'[{"prompt": "a" "completion": "b"}]', (1, None), "bad_json", "delimiter (column 17)"),
        (b'[{"prompt": "a", "completion": "b"}\n {"prompt"]', (2, None), "bad_json", "a comma is missing"),
        (b'[{"prompt": "a", "completion": "b"},\n]', (2, None), "bad_json", "an element is missing"),
        (b'[{"prompt": "a", "completion": "b"}', (1, None), "bad_json", "ends before the array does (column 36)"),
        (b'[{"prompt": "a", "completion": "b"},', (1, None), "bad_json", "ends before the array does"),
        (b'[{"prompt": "a", "completion": "b"}] 7', (1, None), "bad_json", "something follows the array (column 38)"),
        (b'[{"prompt": "a",\n', (1, None), "bad_json", "ends inside of this element (column 2)"),
        (b'[{"prompt": "a', (1, None), "bad_json", "ends inside of this element (column 2)"),
        (b'[["prompt", "a"]]', (1, None), "array", "is an array (column 2)"),
        (b'[7, "b"]', (1, None), "not_an_object", "the element is no JSON object"),
        (b"7", (1, None), "bad_json", "does not begin with ["),
        (b'{"data": [\n]}', (1, None), "not_an_array", "one JSON object"),
        (b'[{"a": {"b": 1, "b": 2}}]', (1, "a.b"), "duplicate_key", "'b'"),
        (b'[\n{"a":\n "\\ud83d"}]', (3, None), "surrogate", "half a character (column 3)"),
        (b'[{"a": ' + b"9" * 5000 + b"}]", (1, "a"), "number_too_long", "too many digits"),
        (b"[" * 70 + b"]" * 70, (1, None), "too_deep", "nested more than 64 deep (column 66)"),
        (b"[" * 100_000, (1, None), "too_deep", "nested too deeply"),
        (b'[\n{"prompt": "\xc3\xa4 caf\xe9"}]', (2, None), "not_utf8", "0xe9"),
        ("[]".encode("utf-16"), (1, None), "not_utf8", "UTF-16"),
    ],
)
def test_a_fault_is_named_by_its_line_and_path(write, monkeypatch, content, place, kind, words, chunk):  # noqa: PLR0917
    if len(content) < 10_000:
        monkeypatch.setattr(json_array, "CHUNK_BYTES", chunk)
    bad = read(write("a.json", content)).bad.shown[0]
    assert (bad.line, bad.path, bad.kind) == (*place, kind), bad
    assert words in bad.reason


def test_an_element_with_a_fault_does_not_hide_the_ones_behind_it(write):
    rows = b'[{"text": "a", "a": 1, "a": 2}, {"text": 7}, {"text": "\xe9"}, {"text": "b"}]'
    data = read(write("a.json", rows))
    assert [bad.kind for bad in data.bad.shown] == ["duplicate_key", "not_text", "not_utf8"]
    assert data.good == 1


def test_an_element_that_is_too_long_is_refused_before_it_fills_the_memory(write, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(json_array, "CHUNK_BYTES", 64)
    data = read(write("a.json", b'[{"text": "a"}, {"text": "' + b"x" * 100_000 + b'"}]'))
    assert (data.good, [bad.kind for bad in data.bad.shown]) == (1, ["line_too_long"])


def test_an_element_of_a_million_values_is_refused_before_it_is_parsed(write):
    bad = read(write("a.json", b'[{"a": [' + b"[]," * 600_000 + b"[]]}]")).bad.shown[0]
    assert bad.kind == "too_many_values"
