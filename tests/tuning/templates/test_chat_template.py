"""A chat template renders rows and their prompts."""

import pytest
from chat_families import (
    CHATML,
    FAMILIES,
    GEMMA,
    MANY_TURNS,
    row,
    trained_words,
)

from celora.tuning.rows.row import Row
from celora.tuning.templates.template_choice import choose


def test_the_prompt_is_everything_before_the_last_answer(tokenizer_with):
    template = choose(tokenizer_with(CHATML))
    assert template.prompt(MANY_TURNS).endswith("<|im_start|>user\nYes?<|im_end|>\n<|im_start|>assistant\n")
    assert "It is four." in template.prompt(MANY_TURNS)
    assert template.rendered(MANY_TURNS, completion_only=True).text.startswith(template.prompt(MANY_TURNS))


def test_system_text_goes_before_the_first_user_message_where_there_is_no_system_role(tokenizer_with):
    template = choose(tokenizer_with(GEMMA))
    assert not template.system_role
    example = row(("system", "Be kind."), ("user", "Yes?"), ("assistant", "No."))
    assert template.render(example.messages) == (
        "<s><start_of_turn>user\nBe kind.\n\nYes?<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n"
    )
    assert example.messages[1]["content"] == "Yes?"
    assert trained_words(template, example) == ["No.<end_of_turn>"]


def test_already_templated_text_gets_no_second_end(tokenizer_with):
    template = choose(tokenizer_with(CHATML))
    text = Row([{"role": "assistant", "content": "One.</s>"}], [1], 1, plain=True)
    assert template.rendered(text, completion_only=True).text.count("</s>") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_running_text_is_not_rendered_and_all_of_it_carries_loss(tokenizer_with, inner, family):
    template = choose(tokenizer_with(FAMILIES[family]))
    example = Row([{"role": "assistant", "content": "It is four, I think."}], [1], 1, plain=True)
    begins = "<s>" if inner.encode("x").tokens[0] == "<s>" else ""
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.text, rendered.spans) == (begins + "It is four, I think.</s>", None)
    (one,) = template.encode([rendered])
    assert one.mask.all()
    assert template.prompt(example) + example.halves[1] + "</s>" == rendered.text
