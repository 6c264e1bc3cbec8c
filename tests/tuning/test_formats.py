import gzip
import json

import pytest

from celora.settings.errors import DataError, SettingsError
from celora.tuning import formats, lines, strict_json
from celora.tuning.formats import BadRowsError, PreferenceRowsError, Row, read, require_good, rows


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
        ("[" * 1_000_000, "too_deep", 65, "nested"),
        ('{"prompt": "a", "completion": "b", "x": ' + '{"y":' * 70 + "1" + "}" * 71, "too_deep", 356, "nested"),
        ('{"prompt": "a", "completion": "b", "n": ' + "9" * 1_000_000 + "}", "number_too_long", 41, "too many digits"),
        ('{"prompt": "a", "completion": "b", "n": 1e999}', "not_finite", 41, "too large"),
        ('{"prompt": "a\0b", "completion": "b"}', "nul", 14, "NUL"),
        ('{"prompt": "a", "completion": "b"}\r{"prompt": "a", "completion": "b"}', "bad_json", 36, "a second value"),
        ('{"prompt": "a", "completion": "  "}', "empty", 31, "completion is empty"),
        ('{"prompt": "", "completion": "b"}', "empty", 12, "prompt is empty"),
        ('{"prompt": "a", "completion": null}', "empty", 31, "null"),
        ('{"prompt": "a", "completion": 72}', "not_text", 31, "a number"),
        ('{"prompt": "a", "completion": ["b"]}', "not_text", 31, "a list"),
        ('{"prompt": "a", "reply": "b"}', "missing_key", 1, "no 'completion'"),
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
        (json.dumps(chat(("tool", "a"), ("assistant", "b"))), "no_call", 15, "no call"),
        ('{"messages": [{"content": "a"}]}', "unknown_role", 15, "no role"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "bad_call", 52, "names no function"),
        ('{"messages": [{"role": "user", "tool_calls": [{}]}]}', "bad_call", 46, "on a user message"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "not_text", 44, "image_url"),
        ('{"conversations": [{"from": "customer", "value": "a"}]}', "unknown_role", 29, "'customer'"),
        ('{"conversations": [{"value": "a"}]}', "unknown_role", 20, "no from"),
        ('{"conversations": [{"from": "function_call", "value": "stock(7)"}]}', "bad_call", 55, "no JSON"),
        ('{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}', "not_text", 62, "prompt is a list"),
        ('{"prompt": [], "completion": [{"role": "user", "content": "a"}]}', "no_assistant", 30, "does not begin"),
        ('{"text": " "}', "empty", 10, "text is empty"),
        ('{"messages": [], "tools": "stock"}', "bad_tools", 27, "no JSON"),
        ('{"messages": [], "tools": [{"type": "function"}]}', "bad_tools", 28, "no name"),
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
    assert len(data.bad.shown) == 107
    assert data.bad.counts == {"bad_json": 150, "unknown_format": 7}
    assert [bad.kind for bad in data.bad.shown].count("bad_json") == 100
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


def test_places_leads_to_every_key_and_value():
    text = '{"a": [1, {"b": "x, y: {}"}, []], "c": {}, "d": -2.5e3}'
    found = {(way, is_key): text[at:] for way, at, is_key in strict_json.places(text)}
    assert found[("a", 1, "b"), False].startswith('"x, y')
    assert found[("a", 2), False].startswith("[]")
    assert found[("c",), True].startswith('"c"')
    assert found[("d",), False].startswith("-2.5e3")


def test_the_formats_are_told_apart_by_their_keys():
    for one in formats.FORMATS:
        for other in formats.FORMATS:
            assert one is other or not one.required <= other.required or formats._better(other, one)


STOCK = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}


def call(name="stock", arguments='{"item": 7}', **more):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calling(calls, *rest, tools=(STOCK,)):
    return {
        "messages": [{"role": "user", "content": "Stock of 7?"}, {"role": "assistant", "tool_calls": calls}, *rest],
        "tools": list(tools),
    }


ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "12"}
LAST = {"role": "assistant", "content": "12 left."}


def test_tool_calls_and_their_answers_are_read_and_carry_loss_as_they_should(write):
    data = read(write({**calling([call()], ANSWER, LAST), "parallel_tool_calls": False}))
    require_good(data)
    row = data.rows[0]
    assert row.weights == [0, 1, 0, 1]
    assert row.tools == [STOCK]
    assert row.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call()]}
    assert row.messages[2] == {**ANSWER, "name": "stock"}
    assert data.ignored_keys == {}


def test_the_deprecated_functions_become_tools(write):
    old = {
        "messages": [
            {"role": "user", "content": "Stock of 7?"},
            {"role": "assistant", "content": None, "function_call": {"name": "stock", "arguments": '{"item": 7}'}},
            {"role": "function", "name": "stock", "content": "12"},
            LAST,
        ],
        "functions": [STOCK["function"]],
    }
    new = calling([call()], ANSWER, LAST)
    first, second = read(write(old)).rows[0], read(write(new, name="new.jsonl")).rows[0]
    for message in second.messages:
        for one in message.get("tool_calls", ()):
            one["id"] = "call_1"
        if "tool_call_id" in message:
            message["tool_call_id"] = "call_1"
    assert first == second


def test_sharegpt_calls_become_the_same_as_openais(write):
    turns = [("human", "Stock of 7?"), ("function_call", '{"name": "stock", "arguments": {"item": 7}}')]
    turns += [("observation", "12"), ("gpt", "12 left.")]
    sharegpt = {
        "conversations": [{"from": speaker, "value": words} for speaker, words in turns],
        "tools": json.dumps([STOCK["function"]]),
    }
    row = read(write(sharegpt)).rows[0]
    assert row.tools == [STOCK]
    assert row.messages[1]["tool_calls"][0]["function"] == {"name": "stock", "arguments": '{"item": 7}'}
    assert row.messages[2] == {"role": "tool", "content": "12", "tool_call_id": "call_1", "name": "stock"}


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (calling([call()], LAST), "no_answer", "has no answer before message 3"),
        (calling([call()], {**ANSWER, "tool_call_id": "c9"}, LAST), "no_call", "the call 'c9', which is not open"),
        (calling([call(arguments="item=7")], ANSWER, LAST), "bad_arguments", "no JSON object"),
        (calling([call(arguments="[7]")], ANSWER, LAST), "bad_arguments", "no JSON object"),
        (calling([call(arguments=7)], ANSWER, LAST), "bad_arguments", "are a number"),
        (calling([call("price")], ANSWER, LAST), "unknown_tool", "'price'"),
        (calling([call(), call()], ANSWER, LAST), "bad_call", "'c1' twice"),
        (calling([call(type="code")], ANSWER, LAST), "bad_call", "'code'"),
        (calling("stock", ANSWER, LAST), "bad_call", "not a list"),
        (calling([call()], ANSWER), "last_not_assistant", "the tool's"),
        (calling([call()], ANSWER, LAST, tools=["stock"]), "bad_tools", "tool 1 is text"),
    ],
)
def test_tool_calls_that_do_not_fit_together_are_named(write, row, kind, words):
    bad = only_bad(write(row))
    assert bad.kind == kind
    assert words in bad.reason
    assert bad.column > 1


def test_a_row_may_end_with_a_call(write):
    data = read(write(calling([call()])))
    require_good(data)
    assert data.rows[0].weights == [0, 1]


def test_keys_of_messages_that_are_not_used_are_noted(write):
    row = chat(("user", "a"), ("assistant", "b"))
    row["messages"][1]["thinking"] = "hm"
    assert read(write(row)).ignored_keys == {"messages[].thinking": 1}


def test_other_names_are_mapped_columns_turn_keys_and_speakers(write):
    path = write({"q": "2+2?", "best": "4", "prompt": "unused"})
    data = read(path, {"prompt": "q", "completion": "best"})
    require_good(data)
    assert [m["content"] for m in data.rows[0].messages] == ["2+2?", "4"]
    path = write({"talk": [{"who": "customer", "said": "2+2?"}, {"who": "agent", "said": "4"}]})
    names = {"conversations": "talk", "from": "who", "value": "said", "human": "customer", "gpt": "agent"}
    data = read(path, names)
    require_good(data)
    assert [(m["role"], m["content"]) for m in data.rows[0].messages] == [("user", "2+2?"), ("assistant", "4")]


def test_a_fault_under_a_mapped_name_is_found_at_its_own_place(write):
    data = read(write('{"q": "2+2?", "best": ""}'), {"prompt": "q", "completion": "best"})
    assert (data.bad.shown[0].column, data.bad.shown[0].kind) == (23, "empty")


def test_a_mapping_decides_between_two_formats(write):
    row = {**GOOD, "prompt": "a", "completion": "b"}
    assert only_bad(write(row)).kind == "ambiguous"
    data = read(write(row), {"messages": "messages"})
    assert (data.format, data.ignored_keys) == ("chat", {"prompt": 1, "completion": 1})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"colour": "q"}, "'colour' is no name"),
        ({"prompt": "q", "completion": "q"}, "'q' is mapped twice"),
        ({"messages": "m", "prompt": "q"}, "belong to no one format"),
    ],
)
def test_a_mapping_that_no_file_could_have_is_refused(write, columns, words):
    with pytest.raises(SettingsError, match=words) as caught:
        read(write(GOOD), columns)
    assert caught.value.hint


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
    with pytest.raises(
        PreferenceRowsError, match=r"2 preference rows, which are for the preference training .* to come"
    ):
        require_good(data)


def test_a_million_keys_in_one_row_are_refused_before_they_are_read(write):
    bad = only_bad(write('{"prompt": "a", "completion": "b", ' + ",".join(f'"k{n}":1' for n in range(600_000)) + "}"))
    assert bad.kind == "too_many_values"
