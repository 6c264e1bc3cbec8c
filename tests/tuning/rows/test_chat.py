import pytest

from celora.tuning.rows.row_reader import read


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_text_parts_become_one_text(write):
    row = turns(("user", [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]), ("assistant", "4"))
    assert read(write(row)).rows[0].messages[0] == {"role": "user", "content": "2+2?"}


def test_an_empty_system_text_is_no_fault(write):
    row = turns(("system", ""), ("user", "q"), ("assistant", "a"))
    assert read(write(row)).rows[0].weights == [0, 0, 1]


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ([], "no_messages"),
        ([("user", "a")], "no_assistant"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "last_not_assistant"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "system_not_first"),
        ([("assistant", "c")], "no_user"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_refused(only_bad, pairs, kind):
    assert only_bad(turns(*pairs)).kind == kind


def assistant(**more):
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **more}]}


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_the_reasoning_before_an_answer_is_kept_under_both_names_that_templates_read(write, only_bad, key):
    message = read(write(assistant(**{key: "hm"}))).rows[0].messages[1]
    assert message == {"role": "assistant", "content": "a", "reasoning_content": "hm", "thinking": "hm"}
    row = assistant()
    row["messages"][0][key] = "hm"
    assert only_bad(row).path == f"messages[0].{key}"


@pytest.mark.parametrize("key", ["loss", "train", "training", "loss_weight", "weight"])
def test_every_name_of_a_message_s_weight_is_read(write, only_bad, key):
    off = 0 if key == "weight" else False
    row = {"messages": [*assistant(**{key: off})["messages"], *assistant()["messages"]]}
    assert read(write(row)).rows[0].weights == [0, 0, 0, 1]
    assert only_bad(assistant(**{key: 0.5})).path == f"messages[1].{key}"


def test_two_weights_that_differ_are_refused(only_bad):
    assert "differ" in only_bad(assistant(loss=False, weight=1)).reason


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_text_beside_the_messages_comes_first(write, only_bad, key):
    row = {**assistant(), key: "Be brief."}
    assert read(write(row)).rows[0].messages[0] == {"role": "system", "content": "Be brief."}
    row["messages"].insert(0, {"role": "developer", "content": "No."})
    assert only_bad(row).path == key


def test_the_developer_is_the_system(write):
    row = {"messages": [{"role": "developer", "content": "s"}, *assistant()["messages"]]}
    assert read(write(row)).rows[0].messages[0]["role"] == "system"


def test_parts_may_hold_their_text_as_value_and_a_part_without_text_names_what_it_has(write, only_bad):
    row = turns(("user", [{"type": "text", "value": "q"}]), ("assistant", "a"))
    assert read(write(row)).rows[0].messages[0]["content"] == "q"
    assert "has no text (it has 'words')" in only_bad(turns(("user", [{"type": "text", "words": "q"}]))).reason


@pytest.mark.parametrize(
    "part", [{"text": "q"}, {"type": "input_text", "text": "q"}, {"type": "output_text", "text": "q"}]
)
def test_text_parts_of_bedrock_and_of_openai_s_responses_are_read(write, part):
    row = {**turns(("user", [part]), ("assistant", [part])), "system": [{"text": "Be "}, {"text": "brief."}]}
    said = [message["content"] for message in read(write(row)).rows[0].messages]
    assert said == ["Be brief.", "q", "q"]


@pytest.mark.parametrize(
    ("part", "fix"),
    [
        ({"type": "thinking", "thinking": "hm"}, "reasoning_content"),
        ({"type": "tool_use", "name": "f", "input": {}}, "tool_calls"),
        ({"type": "tool_result", "content": "7"}, "role tool"),
        ({"type": "image_url", "image_url": "u"}, "only text can be trained on"),
    ],
)
def test_a_part_that_is_no_text_is_refused_with_its_place(only_bad, part, fix):
    bad = only_bad(turns(("user", "q"), ("assistant", [part])))
    assert bad.path == "messages[1].content[0]"
    assert fix in bad.fix


@pytest.mark.parametrize(
    ("role", "nearest"), [("Human", "user"), ("prompter", "user"), ("AI", "assistant"), ("User", "user")]
)
def test_an_unknown_role_is_refused_with_the_nearest_one(only_bad, role, nearest):
    assert only_bad(turns((role, "q"), ("assistant", "a"))).fix == f"write {nearest!r}"
