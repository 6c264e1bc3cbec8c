"""The form of tool calls is found by trying; calls carry loss, tools and their results do not."""

import json

import pytest
from chat_families import (
    CALLS,
    CHATML_TOOLS,
    END,
    GEMMA,
    LAST_IS_A_CALL,
    LLAMA3,
    LLAMA3_TOOLS,
    MANY_CALLS,
    MISTRAL_TOOLS,
    STOCK,
    WEIGHED_CALLS,
    WITH_TOOLS,
    called,
    row,
    trained_words,
    turn_by_turn,
    without_white_tail,
    written,
)

from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError
from celora.tuning.templates.tool_calls import ToolForm, ToolSupport, short_id, support_of


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize(
    "example", [CALLS, MANY_CALLS, WEIGHED_CALLS, LAST_IS_A_CALL], ids=["one", "many", "weighed", "last"]
)
def test_the_mask_of_tool_calls_is_that_of_the_template_rendered_turn_by_turn(tokenizer_with, family, example):
    tokenizer = tokenizer_with(WITH_TOOLS[family])
    template = choose(tokenizer)
    rendered = template.rendered(example, completion_only=True)
    (one,) = template.encode([rendered])
    if rendered.marked_turns:  # Mistral moves the tools, so earlier turns are no beginning of the whole
        assert family == "mistral"
        whole = tokenizer.apply_chat_template(
            written(example.messages, MISTRAL_TOOLS), tools=[STOCK], tokenize=True, return_dict=False
        )
        assert one.tokens.tolist() == whole
        return
    whole, mask = turn_by_turn(tokenizer, example)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_calls_carry_loss_and_tools_and_their_answers_do_not(tokenizer_with, family):
    template = choose(tokenizer_with(WITH_TOOLS[family]))
    assert template.tool_support.declares
    parts = [words.strip() for words in trained_words(template, MANY_CALLS)]
    assert len(parts) == 5
    assert [("stock" in words, "What is left" in words) for words in parts] == [
        (True, False), (False, False), (True, False), (True, False), (False, False),
    ]  # fmt: skip
    assert all(str(item) in words for item, words in zip((7, 8, 9), (parts[0], parts[2], parts[3]), strict=True))
    assert not any("result" in words for words in parts)
    assert [parts[1].removesuffix(END[family]), parts[4].removesuffix(END[family])] == ["It is four.", "No."]
    assert all(words.endswith(END[family]) for words in parts) == (family != "gemma")


def test_of_weighed_calls_only_the_weighed_carry_loss(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL_TOOLS))
    parts = [words.strip() for words in trained_words(template, WEIGHED_CALLS)]
    assert [words.removesuffix("</s>")[:13] for words in parts] == ["It is four.", "[TOOL_CALLS] ", "No."]
    assert '"item": 8' in parts[1]


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("chatml", (True, False, False)),
        ("llama-3", (True, False, False)),
        ("mistral", (True, True, True)),
        ("gemma", (True, False, False)),
    ],
)
def test_the_form_of_calls_is_found_by_trying(tokenizer_with, family, form):
    found = choose(tokenizer_with(WITH_TOOLS[family])).tool_support.form
    assert (found.objects, found.no_content, found.short_ids) == form


def test_a_template_that_wants_arguments_as_text_gets_text(tokenizer_with):
    as_text = CHATML_TOOLS.replace("(c.function.arguments | tojson)", "c.function.arguments")
    template = choose(tokenizer_with(as_text))
    assert not template.tool_support.form.objects
    assert '"arguments": {"item": 7}}' in template.rendered(CALLS, completion_only=True).text


@pytest.mark.parametrize(
    ("template", "example", "words"),
    [
        (LLAMA3, CALLS, "no place for the row's tools"),
        (GEMMA, CALLS, "no place for the row's tools"),
        (LLAMA3, row(*CALLS.messages), "does not write tool calls"),
        (
            LLAMA3_TOOLS,
            row(
                ("user", "a"),
                {**called(1, 7)[0], "tool_calls": called(1, 7)[0]["tool_calls"] + called(2, 8)[0]["tool_calls"]},
                called(1, 7)[1],
                called(2, 8)[1],
                ("assistant", "b"),
            ),
            "single tool-calls",
        ),
    ],
)
def test_tools_that_a_template_cannot_write_are_refused(tokenizer_with, template, example, words):
    with pytest.raises(TemplateRefusalError, match=words):
        choose(tokenizer_with(template)).rendered(example, completion_only=True)


def test_a_call_whose_words_are_left_out_carries_no_loss(tokenizer_with):
    template = choose(tokenizer_with(LLAMA3_TOOLS))
    example = row(("user", "a"), {**called(1, 7)[0], "content": "Let me look."}, called(1, 7)[1], ("assistant", "b"))
    rendered = template.rendered(example, completion_only=True)
    assert rendered.lost == {1: "a tool call, or the words beside one"}
    assert [words.strip() for words in trained_words(template, example)] == ["b<|eot_id|>"]


@pytest.mark.parametrize(("given", "kept"), [("abcDEF123", True), ("call_1234", False), ("", False), ("abc", False)])
def test_an_id_of_nine_letters_is_kept_and_any_other_gets_one(given, kept):
    made = short_id(given)
    assert (len(made), made.isalnum(), made == given) == (9, True, kept)
    assert short_id(given) == made


def test_messages_are_written_in_a_form_and_stay_as_they_were():
    call, result = called(1, 7)
    before = json.dumps([call, result])
    asked, answered = ToolForm(objects=True, no_content=True, short_ids=True).written([call, result])
    assert asked["tool_calls"][0]["function"]["arguments"] == {"item": 7}
    assert "content" not in asked
    assert asked["tool_calls"][0]["id"] == answered["tool_call_id"] == short_id("call_1")
    assert json.dumps([call, result]) == before
    assert ToolForm(objects=False, no_content=False, short_ids=False).written([call, result]) == [call, result]


@pytest.mark.parametrize(
    ("render", "declares", "writes"),
    [
        (lambda _messages, _tools: None, False, False),
        (lambda messages, _tools: json.dumps(messages), False, True),
        (lambda messages, tools: json.dumps([messages, list(tools)]), True, True),
        (lambda messages, _tools: str(messages).replace('"', "'"), False, False),
    ],
    ids=["refuses", "JSON without tools", "JSON", "Python"],
)
def test_a_form_is_right_when_call_arguments_and_result_come_out_as_json(render, declares, writes):
    found = support_of(render)
    assert (found.declares, found.form is not None) == (declares, writes)


def test_what_a_row_needs_and_a_template_lacks_is_named():
    none, form = ToolSupport(declares=False, form=None), ToolForm(objects=True, no_content=False, short_ids=False)
    assert none.missing(row(("user", "a"), ("assistant", "b"))) == ""
    assert "no place for the row's tools" in none.missing(CALLS)
    assert "does not write tool calls" in ToolSupport(declares=True, form=None).missing(CALLS)
    assert ToolSupport(declares=True, form=form).missing(CALLS) == ""
