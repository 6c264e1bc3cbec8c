"""The assistant's turns are found in a rendered row; a turn that lost its words carries no loss."""

import pytest
from chat_families import (
    CHATML,
    MANY_TURNS,
    MISTRAL,
    ONE_TURN,
    THINKING,
    row,
    trained_words,
)

from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError


def test_turns_are_found_by_a_mark_where_a_template_moves_the_system_text(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL))
    example = row(("system", "Be kind."), *((m["role"], m["content"]) for m in MANY_TURNS.messages))
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.marked_turns, rendered.prompt_differs) == (2, True)  # in use the system text stands in each prompt
    assert [words.strip() for words in trained_words(template, example)] == [
        "It is four.</s>",
        "Six, naïve \U0001f600 as it is.</s>",
        "No.</s>",
    ]


def test_a_think_block_belongs_to_the_answer_only_where_the_template_writes_one(tokenizer_with):
    template = choose(tokenizer_with(THINKING))
    example = row(
        ("user", "What is two plus two?"),
        ("assistant", "<think>\nhm\n</think>\n\nIt is four."),
        ("user", "Yes?"),
        ("assistant", "No."),
    )
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.marked_turns, rendered.lost) == (0, {1: "the thoughts of an answer"})
    assert trained_words(template, example) == ["<think>\n\n</think>\n\nNo.<|im_end|>"]


def test_an_answer_ends_the_thought_that_the_generation_prompt_opens(tokenizer_with):
    opens_thought = "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    template = choose(tokenizer_with(CHATML + opens_thought))
    rendered = template.rendered(ONE_TURN, completion_only=True)
    assert (rendered.marked_turns, rendered.prompt_differs) == (0, False)
    assert rendered.text.startswith(template.prompt(ONE_TURN))
    assert [words.strip() for words in trained_words(template, ONE_TURN)] == [
        "</think>\n\nIt is four, I think.<|im_end|>"
    ]


def test_thoughts_that_the_template_drops_leave_a_row_without_a_trained_turn(tokenizer_with):
    without = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
    template = choose(tokenizer_with(without))
    thinking = row(("user", "Two plus two?"), ("assistant", "<think>\nhm\n</think>\n\nFour."))
    with pytest.raises(TemplateRefusalError, match="leaves out the thoughts of an answer"):
        template.rendered(thinking, completion_only=True)


def test_an_answer_that_the_template_rewrites_is_refused(tokenizer_with):
    counting = CHATML.replace("m['content'] + '<|im_end|>'", "m['content'] | replace('four', '4') + '<|im_end|>'")
    template = choose(tokenizer_with(counting + "{% if add_generation_prompt %}!{% endif %}"))
    with pytest.raises(TemplateRefusalError, match="message 2 is rewritten"):
        template.rendered(ONE_TURN, completion_only=True)
