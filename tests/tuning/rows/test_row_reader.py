import gzip
import json

import pytest

from celora.errors import DataError
from celora.tuning.files import jsonl
from celora.tuning.rows.data_file import BadRowsError, OtherMethodError, require_good
from celora.tuning.rows.row import Row
from celora.tuning.rows.row_reader import read, rows


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


GOOD = chat(("user", "2+2?"), ("assistant", "4"))


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
            {
                "prompt": [
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "Add?"},
                    {"role": "user", "content": "Yes"},
                ],
                "completion": [{"role": "assistant", "content": "4"}],
            },
            "prompt-completion",
            [("user", "2+2?"), ("prompted", "Add?"), ("user", "Yes"), ("assistant", "4")],
        ),
        ({"prompt": "2+2?", "response": "4"}, "prompt-response", [("user", "2+2?"), ("assistant", "4")]),
        (
            {
                "system": "Brief.",
                "tools": "[]",
                "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}],
            },
            "sharegpt",
            [("system", "Brief."), ("user", "2+2?"), ("assistant", "4")],
        ),
        ({"text": " The valve opens.\n"}, "text", [("assistant", " The valve opens.\n")]),
        (
            {"instruction": "Add.", "input": "", "output": "4", "text": "### Instruction: Add. ### Response: 4"},
            "alpaca",
            [("user", "Add."), ("assistant", "4")],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
                    {"role": "assistant", "content": None, "refusal": "No."},
                ]
            },
            "chat",
            [("user", "2+2?"), ("assistant", "No.")],
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
    spoken = [("assistant" if role == "prompted" else role, words) for role, words in messages]
    assert [(m["role"], m["content"]) for m in data.rows[0].messages] == spoken
    assert data.rows[0].weights == [int(role == "assistant") for role, _ in messages]
    assert data.rows[0].plain == (name == "text")


@pytest.mark.parametrize(
    ("line", "kind", "path", "words"),
    [
        ('{"prompt": "a" "completion": "b"}', "bad_json", None, "invalid JSON: expecting ',' delimiter"),
        ('{"prompt": "a", "completion": "b"} {}', "bad_json", None, "a second value"),
        ("{", "bad_json", None, "several lines"),
        ('{"prompt": "a\tb", "completion": "b"}', "bad_json", None, "control character"),
        ('[{"prompt": "a", "completion": "b"}]', "array", None, "an array"),
        ('[{"prompt": "a", "completion": "b"},', "array", None, "JSON array"),
        ('"text"', "not_an_object", None, "no JSON object"),
        ('{"prompt": "a", "completion": "b", "score": NaN}', "not_finite", "score", "NaN"),
        ('{"prompt": "a", "completion": "b", "score": -Infinity}', "not_finite", "score", "-Infinity"),
        ('{"prompt": "a", "completion": "b", "n": ' + "9" * 5000 + "}", "number_too_long", "n", "too many digits"),
        ('{"prompt": "a", "x": {"y": 1, "y": 2}, "completion": "b"}', "duplicate_key", "x.y", "'y'"),
        ('{"prompt": "a", "completion": "b", "prompt": "c"}', "duplicate_key", "prompt", "'prompt'"),
        ('{"prompt": "a\\u0000", "completion": "b"}', "nul", None, "NUL"),
        ('{"prompt": "a", "completion": "b\\ud83d"}', "surrogate", None, "half a character"),
        ('{"prompt": "\\udc00 b", "completion": "b"}', "surrogate", None, "half a character"),
        ("[" * 1_000_000, "too_deep", None, "nested"),
        ('{"prompt": "a", "completion": "b", "x": ' + '{"y":' * 70 + "1" + "}" * 71, "too_deep", None, "nested"),
        ('{"prompt": "a", "completion": "b", "n": ' + "9" * 1_000_000 + "}", "number_too_long", "n", "too many digits"),
        ('{"prompt": "a", "completion": "b", "n": 1e999}', "not_finite", "n", "too large"),
        ('{"prompt": "a\0b", "completion": "b"}', "nul", None, "NUL"),
        ('{"prompt": "a", "completion": "b"}\r{"prompt": "a", "completion": "b"}', "bad_json", None, "a second value"),
        ('{"prompt": "a", "completion": "  "}', "empty", "completion", "completion is empty"),
        ('{"prompt": "", "completion": "b"}', "empty", "prompt", "prompt is empty"),
        ('{"prompt": "a", "completion": null}', "empty", "completion", "null"),
        ('{"prompt": "a", "completion": 72}', "not_text", "completion", "a number"),
        ('{"prompt": "a", "completion": ["b"]}', "not_text", "completion", "a list"),
        ('{"prompt": "a", "reply": "b"}', "missing_key", None, "no 'completion'"),
        ('{"a": 1, "b": 2}', "unknown_format", None, "'a', 'b'"),
        ("{}", "unknown_format", None, "none"),
        ('{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}', "ambiguous", None, "question-answer"),
        ('{"instruction": "a", "output": "b", "history": [["c"]]}', "bad_history", "history[0]", "no pair"),
        ('{"instruction": "a", "output": "b", "history": "c"}', "bad_history", "history", "history is text"),
        ('{"instruction": "a", "output": "b", "history": [["c", ""]]}', "empty", "history[0][1]", "entry 1"),
        ('{"messages": []}', "no_messages", "messages", "empty"),
        ('{"messages": {"role": "user"}}', "no_messages", "messages", "not a list"),
        ('{"messages": ["hello"]}', "no_messages", "messages[0]", "message 1"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no_assistant", "messages", "no assistant"),
        (
            json.dumps(chat(("user", "a"), ("assistant", "b"), ("user", "c"))),
            "last_not_assistant",
            "messages[2]",
            "user's",
        ),
        (
            json.dumps(chat(("user", "a"), ("system", "b"), ("assistant", "c"))),
            "system_not_first",
            "messages[1]",
            "message 2",
        ),
        (json.dumps(chat(("assistant", "c"))), "no_user", "messages", "no user"),
        (json.dumps(chat(("user", "a"), ("assistant", ""))), "empty", "messages[1].content", "message 2"),
        (json.dumps(chat(("human", "a"), ("assistant", "b"))), "unknown_role", "messages[0].role", "'human'"),
        (json.dumps(chat(("tool", "a"), ("assistant", "b"))), "no_call", "messages[0]", "no call"),
        ('{"messages": [{"content": "a"}]}', "unknown_role", "messages[0]", "no role"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{}]}]}',
            "bad_call",
            "messages[0].tool_calls[0]",
            "names no function",
        ),
        (
            '{"messages": [{"role": "user", "tool_calls": [{}]}]}',
            "bad_call",
            "messages[0].tool_calls",
            "on a user message",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "not_text",
            "messages[0].content[0]",
            "image_url",
        ),
        (
            '{"conversations": [{"from": "customer", "value": "a"}]}',
            "unknown_role",
            "conversations[0].from",
            "'customer'",
        ),
        ('{"conversations": [{"value": "a"}]}', "unknown_role", "conversations[0]", "no from"),
        (
            '{"conversations": [{"from": "function_call", "value": "stock(7)"}]}',
            "bad_call",
            "conversations[0].value",
            "no JSON",
        ),
        (
            '{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}',
            "not_text",
            "completion",
            "prompt is a list",
        ),
        (
            '{"prompt": [], "completion": [{"role": "user", "content": "a"}]}',
            "no_assistant",
            "completion",
            "does not begin",
        ),
        ('{"text": " "}', "empty", "text", "text is empty"),
        ('{"messages": [], "tools": "stock"}', "bad_tools", "tools", "no JSON"),
        ('{"messages": [], "tools": [{"type": "function"}]}', "bad_tools", "tools[0]", "no name"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]}',
            "bad_weight",
            "messages[1].weight",
            "0.5",
        ),
        (
            '{"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]}',
            "bad_weight",
            "messages[0].weight",
            "on a user message",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}',
            "no_weight",
            "messages",
            "weight 0",
        ),
    ],
)
def test_a_bad_line_is_named_with_line_path_reason_and_fix(only_bad, line, kind, path, words):
    bad = only_bad("", line)
    assert (bad.line, bad.path, bad.kind) == (2, path, kind), bad
    assert words in bad.reason
    assert bad.fix


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
    assert (data.lines, len(data.notes)) == (3, 3)


def test_bytes_that_are_not_utf8_are_named_by_their_byte(only_bad):
    bad = only_bad(b'{"prompt": "caf\xe9", "completion": "b"}')
    assert (bad.line, bad.path, bad.byte, bad.kind) == (1, None, 16, "not_utf8")
    assert "0xe9" in bad.reason
    assert "byte 16" in str(bad)


def test_utf16_is_recognised(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}", encoding="utf-16")
    assert "UTF-16" in read(path).bad.shown[0].reason


def test_whole_characters_written_as_escapes_are_no_surrogates(write):
    data = read(write('{"prompt": "\\ud83d\\ude00 \\\\u0000", "completion": "b"}'))
    require_good(data)
    assert data.rows[0].messages[0]["content"] == "\U0001f600 \\u0000"


def test_a_line_without_end_is_refused_before_it_fills_the_memory(write, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
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
    assert len(data.bad.shown) == 107
    assert data.bad.counts == {"bad_json": 150, "unknown_format": 7}
    assert [bad.kind for bad in data.bad.shown].count("bad_json") == 100
    with pytest.raises(BadRowsError, match=r"157 bad lines of 158: line 1: .*and 152 more\.") as caught:
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
        ("rows.txt", b"a,b\n", "none of the files that can be read"),
        ("rows.jsonl", b"PK\x03\x04rest", "a zip archive"),
        ("rows.csv", b"PAR1rest", "is a Parquet file"),
        ("rows.parquet", b"no parquet at all", "no Parquet file"),
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


def test_keys_of_messages_that_are_not_used_are_noted(write):
    row = chat(("user", "a"), ("assistant", "b"))
    row["messages"][1]["mood"] = "hm"
    assert read(write(row)).ignored_keys == {"messages[].mood": 1}


def test_plain_text_warns_that_loss_is_on_every_word(write):
    data = read(write({"text": "a"}, {"text": "b"}))
    require_good(data)
    assert "loss is on every word" in data.warnings[0]
    assert read(write(GOOD)).warnings == []


def test_rows_are_given_one_by_one_and_what_was_found_out_at_the_end(write):
    path = write(GOOD, "{", {"text": "a"}, GOOD)
    reading = rows(path)
    kinds = [type(found).__name__ for found in reading]
    assert kinds == ["Row", "BadLine", "Row", "BadLine"]
    assert (reading.data.good, reading.data.bad.total, reading.data.lines) == (2, 2, 4)
    assert reading.data.rows == ()
    assert reading.done_bytes == path.stat().st_size
    assert len(reading.data.sha256) == 64
    assert [bad.line for bad in reading.data.bad.shown] == [2, 3]


def test_rows_of_preferences_are_checked_and_refused_for_fine_tuning(write):
    path = write({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "d"})
    data = read(path)
    assert (data.format, data.good, len(data.preferences), list(data.rows)) == ("preference", 2, 2, [])
    assert [found for found in rows(path) if isinstance(found, Row)] == []
    with pytest.raises(OtherMethodError, match="2 preference rows, and method sft does not train on those") as caught:
        require_good(data)
    assert caught.value.hint.startswith("Write the line `method: dpo` (or orpo, kto) into the job, or write rows of ")
    for method in ("dpo", "orpo", "kto"):
        require_good(data, method)


def test_a_million_keys_in_one_row_are_refused_before_they_are_read(only_bad):
    bad = only_bad('{"prompt": "a", "completion": "b", ' + ",".join(f'"k{n}":1' for n in range(600_000)) + "}")
    assert bad.kind == "too_many_values"


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "q", "completion": "a", "text": None, "messages": None}, "prompt-completion"),
        ({"text": "words", "prompt": None, "completion": None}, "text"),
        ({"prompt": "q", "completion": "a", "chosen": None, "rejected": None, "label": None}, "prompt-completion"),
    ],
)
def test_a_key_without_a_value_does_not_decide_the_format(write, row, name, empty):
    data = read(write({key: empty if item is None else item for key, item in row.items()}))
    assert (data.format, data.good, dict(data.ignored_keys)) == (name, 1, {})


def test_a_key_without_a_value_that_the_format_needs_is_named(only_bad):
    assert only_bad({"prompt": "q", "completion": None}).path == "completion"
    assert only_bad({"messages": None, "id": 1}).path == "messages"
