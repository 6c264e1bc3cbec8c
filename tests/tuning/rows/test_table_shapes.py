import json

import pytest

from celora.tuning.rows.row_reader import read

PAIR = {"prompt": "a?", "completion": "b"}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}

TABLES = [
    ({"data": [PAIR]}, "not_an_array", "1 row under 'data'", "jq -c '.data[]'"),
    ({"version": "1.0", "rows": [CHAT, CHAT]}, "not_an_array", "2 rows under 'rows'", "jq -c '.rows[]'"),
    ({"train": [PAIR] * 3, "test": [PAIR]}, "not_an_array", "3 rows under 'train', 'test'", "jq -c '.train[]'"),
    ({"features": [{"name": "prompt"}] * 4, "rows": [PAIR]}, "not_an_array", "'rows', 'features'", "'.rows[]'"),
    ({"result": {"my items": [CHAT]}}, "not_an_array", "under 'result.my items'", """'.result.["my items"][]'"""),
    ({"schema": {"fields": []}, "data": [PAIR]}, "not_an_array", "1 row under 'data'", "'.data[]'"),
    ({"data": []}, "not_an_array", "an empty list under 'data'", "'.data[]'"),
    ({"0": PAIR, "1": PAIR}, "not_an_array", "2 rows by number or name", "jq -c '.[]'"),
    (
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        "columns",
        "'prompt', 'completion' hold lists",
        "orient='records'",
    ),
    ({"messages": [CHAT["messages"]] * 2, "id": [1, 2]}, "columns", "'messages', 'id' hold lists", "lines=True"),
    ({"instruction": ["a"], "input": [""], "output": ["c"], "id": [7]}, "columns", "and 1 more", "lines=True"),
    ({"q": ["a"], "a": ["b"]}, "columns", "'q', 'a' hold lists", "lines=True"),
    ({"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}}, "columns", "cells of 2 rows", "lines=True"),
    ({"columns": ["prompt", "completion"], "index": [0], "data": [["a", "b"]]}, "columns", "1 rows without", "records"),
    ({"row_idx": 0, "row": PAIR}, "nested_row", "one level too deep, under 'row'", "jq -c '.row'"),
]


@pytest.mark.parametrize("written", [("a.json", None), ("a.json", 1), ("a.jsonl", None)])
@pytest.mark.parametrize(("value", "kind", "words", "fix"), TABLES)
def test_a_table_in_the_place_of_a_row_is_named_with_the_way_to_its_rows(write, value, kind, words, fix, written):  # noqa: PLR0917
    name, indent = written
    data = read(write(json.dumps(value, indent=indent), name=name))
    (bad,) = data.bad.shown
    assert (bad.line, bad.kind, data.good) == (1, kind, 0), bad
    assert words in bad.reason
    assert fix in bad.fix


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [{"text": "x"}]}, "unknown_role"),
        ({"messages": {"role": "user"}}, "no_messages"),
        ({"prompt": "a", "completion": ["b"]}, "not_text"),
        ({"conversations": []}, "no_messages"),
        ({"meta": {"id": 1}, "words": "x"}, "unknown_format"),
        ({"messages": ["hello"]}, "no_messages"),
        ({}, "unknown_format"),
    ],
)
def test_a_faulty_row_is_not_taken_for_a_table(write, row, kind):
    (bad,) = read(write(row)).bad.shown
    assert bad.kind == kind, bad


def test_one_row_over_several_lines_is_read(write):
    data = read(write(b"\xef\xbb\xbf" + json.dumps(CHAT, indent=2).encode(), name="a.json"))
    assert (data.good, data.bad.total) == (1, 0)
    assert data.notes == ["the file is one JSON object, so it was read as one row"]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (json.dumps(PAIR, indent=1) * 2, 1, "several objects stand in the file, and not one a line"),
        ('{\n "prompt": "a",\n "completion": }\n', 3, "expecting value (column 16)"),
        ('{\n "prompt": "a",\n', 3, "expecting property name"),
        ('{\n "prompt": "a",\n "prompt": "b"}', 1, "stands twice"),
    ],
)
def test_a_fault_of_one_object_over_several_lines_has_its_place(write, content, line, words):
    (bad,) = read(write(content, name="a.json")).bad.shown
    assert bad.line == line
    assert words in bad.reason


def test_lines_of_one_pretty_object_are_one_fault(write):
    for content in (json.dumps(PAIR, indent=1) * 2, json.dumps([PAIR, PAIR], indent=1), "[\n"):
        (bad,) = read(write(content)).bad.shown
        assert (bad.line, "jq -c" in bad.fix) == (1, True), bad
