import pytest

from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read

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
def test_tool_calls_that_do_not_fit_together_are_named(only_bad, row, kind, words):
    bad = only_bad(row)
    assert bad.kind == kind
    assert words in bad.reason
    assert bad.path


def test_a_row_may_end_with_a_call(write):
    data = read(write(calling([call()])))
    require_good(data)
    assert data.rows[0].weights == [0, 1]


def test_null_fields_of_schemas_and_of_arguments_are_gone(write):
    """Parquet fills the fields of all structs up with nulls."""
    schema = {"type": "object", "properties": {"item": {"type": "integer"}, "text": None}}
    tool = {"type": "function", "function": {"name": "stock", "parameters": schema, "strict": None}}
    row = calling([call(arguments={"item": 7, "text": None})], ANSWER, LAST, tools=[tool])
    found = read(write(row)).rows[0]
    assert found.messages[1]["tool_calls"][0]["function"]["arguments"] == '{"item": 7}'
    assert found.tools[0]["function"] == {
        "name": "stock", "parameters": {"type": "object", "properties": {"item": {"type": "integer"}}}
    }  # fmt: skip


def test_tools_of_a_system_message_are_the_row_s(write, only_bad):
    row = calling([call()], ANSWER, LAST)
    tools = row.pop("tools")
    row["messages"].insert(0, {"role": "system", "content": "s", "tools": tools})
    assert read(write(row)).rows[0].tools == [STOCK]
    assert "two places" in only_bad({**row, "tools": tools}).reason
