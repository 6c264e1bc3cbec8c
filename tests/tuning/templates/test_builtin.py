"""Our own templates serve a base that has none."""

import pytest
from chat_families import (
    CALLS,
    MANY_CALLS,
    MANY_TURNS,
    ONE_TURN,
    STOCK,
    WEIGHED_CALLS,
    row,
    trained_words,
    turn_by_turn,
    without_white_tail,
)

from celora.tuning.templates.template_choice import choose


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_the_named_templates_serve_a_base_without_one(tokenizer_with, name):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer, name)
    (one,) = template.encode([template.rendered(MANY_TURNS, completion_only=True)])
    whole, mask = turn_by_turn(tokenizer, MANY_TURNS)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    assert template.warnings == []
    assert template.system_role


def test_alpaca_is_the_default_and_begins_as_the_tokenizer_would(tokenizer_with, inner):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer)
    assert template.name == "alpaca"
    begins_with_bos = inner.encode("x").tokens[0] == "<s>"
    assert template.render(ONE_TURN.messages) == (
        ("<s>" if begins_with_bos else "")
        + "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nWhat is two plus two?\n\n### Response:\nIt is four, I think.</s>"
    )
    system = row(("system", "Be kind."), *((m["role"], m["content"]) for m in ONE_TURN.messages))
    assert "Be kind.\n\n### Instruction:\n" in template.render(system.messages)
    assert "Below" not in template.render(system.messages)


def test_our_own_chatml_has_tools(tokenizer_with):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer, "chatml")
    for example in (CALLS, MANY_CALLS, WEIGHED_CALLS):
        (one,) = template.encode([template.rendered(example, completion_only=True)])
        whole, mask = turn_by_turn(tokenizer, example)
        assert one.tokens.tolist() == whole
        assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    system = row(("system", "Be kind."), *CALLS.messages, tools=[STOCK])
    assert template.render(system.messages, tools=system.tools).count("Be kind.") == 1
    assert trained_words(template, CALLS)[0] == (
        '<tool_call>\n{"name": "stock", "arguments": {"item": 7}}\n</tool_call><|im_end|>'
    )
