import json

import pytest

from celora.tuning.rows.row_reader import read

STOCK = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}


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


def test_a_system_text_beside_the_turns_comes_first_and_only_once(write, only_bad):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    row = read(write({"system": "Be brief.", "conversations": turns})).rows[0]
    assert [message["role"] for message in row.messages] == ["system", "user", "assistant"]
    bad = only_bad({"system": "Be brief.", "conversations": [{"from": "system", "value": "No."}, *turns]})
    assert (bad.kind, bad.path) == ("system_not_first", "system")


@pytest.mark.parametrize(("weight", "weights"), [(0, [0, 0, 0, 1]), (1, [0, 1, 0, 1]), (None, [0, 1, 0, 1])])
def test_a_turn_may_have_a_weight(write, weight, weights):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": weight}]
    row = {"conversations": [*turns, {"from": "human", "value": "r"}, {"from": "gpt", "value": "b"}]}
    assert read(write(row)).rows[0].weights == weights


def test_function_calls_that_follow_each_other_are_one_message(write):
    calls = [{"from": "function_call", "value": json.dumps({"name": "stock", "arguments": {"n": n}})} for n in (1, 2)]
    answers = [{"from": "observation", "value": words} for words in ("one", "two")]
    row = {"conversations": [{"from": "human", "value": "q"}, *calls, *answers, {"from": "gpt", "value": "a"}]}
    messages = read(write(row)).rows[0].messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_1", "call_2"]
    assert [message["tool_call_id"] for message in messages[2:4]] == ["call_1", "call_2"]
