"""The prompt that is trained after is the prompt in use."""

import pytest
from template_families import NO_TEXT_CONTENT, ROWS, row, shipped, shipped_templates, tokenizer_for

from celora.tuning.templates.prompt_in_use import behind_prompt
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError
from celora.tuning.templates.turn_spans import OTHER_OPENING


@pytest.mark.parametrize(
    ("text", "prompt", "thoughts", "found"),
    [
        ("Q<bot>A.", "Q<bot>\n", "", "Q<bot>\nA."),
        ("Q<bot><think></think>A.", "Q<bot><think>\n", "", "Q<bot><think>\n</think>A."),
        ("Q<bot>A.", "Q<bot><think>\n", "", "Q<bot><think>\n\n</think>\n\nA."),
        ("Q<bot>\n\nA.", "Q<bot><think>\n", "I see", "Q<bot><think>\nI see\n</think>\n\nA."),
        ("Q<bot><think>\nI see</think>A.", "Q<bot><think>\n\n</think>\n\n", "I see", None),
        ("P" * 99 + "<bot>A.", "Q" * 99 + "<bot>", "", None),
    ],
)
def test_an_answer_is_put_behind_the_prompt_in_use_where_a_way_leads_there(text, prompt, thoughts, found):
    assert behind_prompt(text, prompt, thoughts) == found


@pytest.mark.parametrize("name", [name for name in shipped_templates() if name not in NO_TEXT_CONTENT])
def test_every_row_of_every_family_begins_with_the_prompt_in_use(name):
    template = choose(tokenizer_for(shipped(name)))
    for kind, messages in ROWS.items():
        example = row(messages)
        try:
            rendered = template.rendered(example, completion_only=True)
        except TemplateRefusalError:
            continue
        assert rendered.text.startswith(template.prompt(example)), kind
        assert rendered.spans[-1].start == len(template.prompt(example)), kind


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "nemotron_3_nano", "qwen3_5_think"])
def test_an_earlier_answer_that_the_template_opens_otherwise_carries_no_loss(name):
    template = choose(tokenizer_for(shipped(name)))
    rendered = template.rendered(row(ROWS["two turns"]), completion_only=True)
    assert (list(rendered.lost), set(rendered.lost.values()), len(rendered.spans)) == ([1], {OTHER_OPENING}, 1)


def test_white_space_at_the_ends_of_an_answer_is_no_reason_to_refuse_it():
    template = choose(tokenizer_for(shipped("nemotron_3_ultra")))
    rendered = template.rendered(row(ROWS["white space"]), completion_only=True)
    (span,) = rendered.spans
    assert rendered.text[span.start : span.end].startswith("</think>")
    assert "indented answer<|im_end|>" in rendered.text
