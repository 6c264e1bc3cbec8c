import json

import pytest

from celora.tuning.templates.trained_words import own_words


def calling(*calls, content=""):
    made = [{"function": {"name": name, "arguments": json.dumps(arguments)}} for name, arguments in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def test_thoughts_are_found_in_the_content_and_under_their_own_keys():
    inside = own_words({"role": "assistant", "content": "<think>\nhm\n</think>\n\nFour."})
    assert (inside.thoughts, inside.words) == ("hm", "Four.")
    for key in ("reasoning_content", "thinking"):
        apart = own_words({"role": "assistant", "content": "Four.", key: "hm"})
        assert (apart.thoughts, apart.words) == ("hm", "Four.")


@pytest.mark.parametrize(
    ("span", "missing"),
    [
        ("<think>\nhm\n</think>\n\nFour.<|im_end|>", ""),
        ("Four.<|im_end|>", "the thoughts of an answer"),
        ("<think>hm</think>", "the words of an answer"),
    ],
)
def test_the_part_that_a_span_lacks_is_named(span, missing):
    assert own_words({"role": "assistant", "content": "<think>hm</think>Four."}).missing(span) == missing


ORDER = ("find_order", {"number": 7, "urgent": True, "note": 'süß "x"', "tags": ["a1", None]})


@pytest.mark.parametrize(
    "span",
    [
        json.dumps({"name": ORDER[0], "arguments": ORDER[1]}),
        json.dumps({"name": ORDER[0], "arguments": ORDER[1]}, ensure_ascii=False),
        f"[{ORDER[0]}(number=7, urgent=True, note='süß \"x\"', tags=['a1', None])]",
    ],
)
def test_a_call_is_found_as_json_and_as_python(span):
    assert not own_words(calling(ORDER)).missing(span)


@pytest.mark.parametrize(
    ("calls", "span"),
    [
        ([("find", {"x": 1})], '<call>call00001{"x": 1}'),
        ([("find", {"x": 1})], '<call>find{"y": 1}'),
        ([("find", {"x": "seven"})], '<call>find{"x": ""}'),
        ([("find", {}), ("find", {})], "<call>find{}"),
    ],
)
def test_a_call_without_its_name_an_argument_or_its_twin_is_missing(calls, span):
    assert own_words(calling(*calls)).missing(span) == "a tool call, or the words beside one"


def test_words_beside_a_call_belong_to_it():
    turn = own_words(calling(("find", {}), content="Let me look."))
    assert turn.missing("find {}") == "a tool call, or the words beside one"
    assert not turn.missing("Let me look. find {}")


def test_the_words_end_where_they_stand_first_and_not_in_what_follows():
    turn = own_words({"role": "assistant", "content": "<think>hm</think>Four."})
    span = "<think>hm</think>\n\nFour.<|im_end|>\nFour."
    assert span[: turn.end_in(span)] == "<think>hm</think>\n\nFour."
