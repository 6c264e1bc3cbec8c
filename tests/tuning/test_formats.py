import gzip
import json

import pytest

from celora.settings.errors import DataError
from celora.tuning import formats, lines
from celora.tuning.formats import BadRowsError, read, require_good


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(
            b"".join(
                (row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()) + b"\n"
                for row in rows
            )
        )
        return path

    return write


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


GOOD = chat(("user", "2+2?"), ("assistant", "4"))


def only_bad(path):
    data = read(path)
    assert len(data.bad.shown) == 1, data.bad.shown
    return data.bad.shown[0]


@pytest.mark.parametrize(
    ("row", "name", "messages"),
    [
        ({"instruction": "Add.", "output": "4"}, "alpaca", [("user", "Add."), ("assistant", "4")]),
        (
            {"instruction": "Add.", "input": "2 2", "output": "4", "system": "One word."},
            "alpaca",
            [("system", "One word."), ("user", "Add.\n\n2 2"), ("assistant", "4")],
        ),
        (
            {"instruction": "And 3+3?", "input": "", "output": "6", "system": None, "history": [["2+2?", "4"]]},
            "alpaca",
            [("user", "2+2?"), ("assistant", "4"), ("user", "And 3+3?"), ("assistant", "6")],
        ),
        (GOOD, "chat", [("user", "2+2?"), ("assistant", "4")]),
        (
            {"prompt": "bread in French?", "completion": " pain\n"},
            "prompt-completion",
            [("user", "bread in French?"), ("assistant", "pain")],
        ),
        (
            {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 24"},
            "question-answer",
            [("user", "How many?"), ("assistant", "48/2 = <<48/2=24>>24\n#### 24")],
        ),
    ],
)
def test_every_format_becomes_the_same_kind_of_row(write, row, name, messages):
    data = read(write(row))
    require_good(data)
    assert data.format == name
    assert [(m["role"], m["content"]) for m in data.rows[0].messages] == messages
    assert data.rows[0].weights == [int(role == "assistant") for role, _ in messages]


def test_a_weight_of_zero_takes_a_turn_out_of_the_loss(write):
    row = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    row["messages"][1]["weight"] = 0
    row["messages"][3]["weight"] = 1
    assert read(write(row)).rows[0].weights == [0, 0, 0, 1]


def test_gzip_bom_crlf_and_blank_lines_are_read_and_noted(tmp_path):
    line = json.dumps(GOOD).encode()
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + line + b"\r\n\n" + line))
    data = read(path)
    require_good(data)
    assert [row.line for row in data.rows] == [1, 3]
    assert (data.lines, data.blank_lines, len(data.notes)) == (3, 1, 3)


@pytest.mark.parametrize(
    ("line", "kind", "column", "words"),
    [
        ('{"prompt": "a" "completion": "b"}', "bad_json", 16, "invalid JSON: expecting ',' delimiter"),
        ('{"prompt": "a", "completion": "b"} {}', "bad_json", 36, "a second value"),
        ("{", "bad_json", 2, "several lines"),
        ('{"prompt": "a\tb", "completion": "b"}', "bad_json", 14, "control character"),
        ('[{"prompt": "a", "completion": "b"}]', "array", 1, "an array"),
        ('[{"prompt": "a", "completion": "b"},', "array", 37, "JSON array"),
        ('"text"', "not_an_object", 1, "no JSON object"),
        ('{"prompt": "a", "completion": "b", "score": NaN}', "not_finite", 45, "NaN"),
        ('{"prompt": "a", "completion": "b", "score": -Infinity}', "not_finite", 45, "-Infinity"),
        ('{"prompt": "a", "completion": "b", "n": ' + "9" * 5000 + "}", "number_too_long", 41, "too many digits"),
        ('{"prompt": "a", "x": {"y": 1, "y": 2}, "completion": "b"}', "duplicate_key", 31, "'y'"),
        ('{"prompt": "a", "completion": "b", "prompt": "c"}', "duplicate_key", 36, "'prompt'"),
        ('{"prompt": "a\\u0000", "completion": "b"}', "nul", 14, "NUL"),
        ('{"prompt": "a", "completion": "b\\ud83d"}', "surrogate", 33, "half a character"),
        ('{"prompt": "\\udc00 b", "completion": "b"}', "surrogate", 13, "half a character"),
        ("[" * 100_000, "too_deep", 1, "nested"),
        ('{"prompt": "a", "completion": "  "}', "empty", 31, "completion is empty"),
        ('{"prompt": "", "completion": "b"}', "empty", 12, "prompt is empty"),
        ('{"prompt": "a", "completion": null}', "empty", 31, "null"),
        ('{"prompt": "a", "completion": 72}', "not_text", 31, "a number"),
        ('{"prompt": "a", "completion": ["b"]}', "not_text", 31, "a list"),
        ('{"prompt": "a", "response": "b"}', "missing_key", 1, "no 'completion'"),
        ('{"a": 1, "b": 2}', "unknown_format", 1, "'a', 'b'"),
        ("{}", "unknown_format", 1, "none"),
        ('{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}', "ambiguous", 1, "question-answer"),
        ('{"instruction": "a", "output": "b", "history": [["c"]]}', "bad_history", 49, "no pair"),
        ('{"instruction": "a", "output": "b", "history": "c"}', "bad_history", 48, "history is text"),
        ('{"instruction": "a", "output": "b", "history": [["c", ""]]}', "empty", 55, "entry 1"),
        ('{"messages": []}', "no_messages", 14, "empty"),
        ('{"messages": {"role": "user"}}', "no_messages", 14, "not a list"),
        ('{"messages": ["hello"]}', "no_messages", 15, "message 1"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no_assistant", 14, "no assistant"),
        (json.dumps(chat(("user", "a"), ("assistant", "b"), ("user", "c"))), "last_not_assistant", 88, "user's"),
        (json.dumps(chat(("user", "a"), ("system", "b"), ("assistant", "c"))), "system_not_first", 49, "message 2"),
        (json.dumps(chat(("assistant", "c"))), "no_user", 14, "no user"),
        (json.dumps(chat(("user", "a"), ("assistant", ""))), "empty", 82, "message 2"),
        (json.dumps(chat(("human", "a"), ("assistant", "b"))), "unknown_role", 24, "'human'"),
        (json.dumps(chat(("tool", "a"), ("assistant", "b"))), "tools", 24, "tool"),
        ('{"messages": [{"content": "a"}]}', "unknown_role", 15, "no role"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "tools", 51, "tool_calls"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]}',
            "bad_weight",
            97,
            "0.5",
        ),
        (
            '{"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]}',
            "bad_weight",
            58,
            "on a user message",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}',
            "no_weight",
            14,
            "weight 0",
        ),
    ],
)
def test_a_bad_line_is_named_with_line_column_reason_and_fix(write, line, kind, column, words):
    bad = only_bad(write("", line))
    assert (bad.line, bad.column, bad.kind) == (2, column, kind), bad
    assert words in bad.reason
    assert bad.fix


def test_bytes_that_are_not_utf8_are_named_by_their_byte(write):
    bad = only_bad(write(b'{"prompt": "caf\xe9", "completion": "b"}'))
    assert (bad.line, bad.column, bad.byte, bad.kind) == (1, None, 16, "not_utf8")
    assert "0xe9" in bad.reason
    assert "byte 16" in str(bad)


def test_utf16_is_recognised(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}", encoding="utf-16")
    assert "UTF-16" in only_bad(path).reason


def test_whole_characters_written_as_escapes_are_no_surrogates(write):
    data = read(write('{"prompt": "\\ud83d\\ude00 \\\\u0000", "completion": "b"}'))
    require_good(data)
    assert data.rows[0].messages[0]["content"] == "\U0001f600 \\u0000"


def test_a_line_without_end_is_refused_before_it_fills_the_memory(write, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    data = read(write(GOOD, "x" * 1000, GOOD))
    assert [(bad.line, bad.kind) for bad in data.bad.shown] == [(2, "line_too_long")]
    assert [row.line for row in data.rows] == [1, 3]


def test_rows_of_another_format_are_named_by_their_lines(write):
    alpaca = {"instruction": "a", "output": "b"}
    data = read(write(GOOD, alpaca, GOOD, alpaca, GOOD))
    assert [(bad.line, bad.kind) for bad in data.bad.shown] == [(2, "mixed_formats"), (4, "mixed_formats")]
    assert data.format == "chat"
    assert "line 1" in data.bad.shown[0].reason
    assert data.by_format == {"chat": 3, "alpaca": 2}


def test_every_bad_line_is_counted_and_the_first_hundred_are_kept(write):
    data = read(write(*["{"] * 150, GOOD, *["{}"] * 7))
    assert len(data.bad.shown) == 100
    assert data.bad.counts == {"bad_json": 150, "unknown_format": 7}
    with pytest.raises(BadRowsError, match=r"157 bad lines of 158: line 1, column 2: .*and 152 more\.") as caught:
        require_good(data)
    assert caught.value.code == "bad_data"
    assert caught.value.hint
    assert caught.value.bad is data.bad


def test_hundreds_of_rows_of_another_format_are_all_counted(write):
    alpaca = {"instruction": "a", "output": "b"}
    data = read(write(*[GOOD] * 200, *[alpaca] * 150))
    assert data.bad.counts == {"mixed_formats": 150}
    assert len(data.bad.shown) == 100


def test_keys_that_no_format_knows_are_ignored_and_noted(write):
    data = read(write({**GOOD, "id": 7}, {**GOOD, "id": 8}))
    require_good(data)
    assert data.ignored_keys == {"id": 2}
    assert data.notes == ["keys that are not used: id (2 rows)"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("rows.csv", b"a,b\n", "no .jsonl"),
        ("empty.jsonl", b"", "holds no rows"),
        ("blank.jsonl", b"\n \n", "holds no rows"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 99)[:-12], "damaged gzip"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_name(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        require_good(read(path))
    assert name in caught.value.message
    assert caught.value.hint


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_places_leads_to_every_key_and_value():
    text = '{"a": [1, {"b": "x, y: {}"}, []], "c": {}, "d": -2.5e3}'
    found = {(way, is_key): text[at:] for way, at, is_key in lines.places(text)}
    assert found[("a", 1, "b"), False].startswith('"x, y')
    assert found[("a", 2), False].startswith("[]")
    assert found[("c",), True].startswith('"c"')
    assert found[("d",), False].startswith("-2.5e3")


def test_the_formats_are_told_apart_by_their_keys():
    for one in formats.FORMATS:
        for other in formats.FORMATS:
            assert one is other or not one.required <= other.required
