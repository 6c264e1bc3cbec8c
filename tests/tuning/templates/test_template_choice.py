"""A chat template is chosen and tried, completed where it lacks an end or a generation prompt, or refused."""

import pytest
from chat_families import (
    CHATML,
    NO_GENERATION_PROMPT,
    ONE_TURN,
    trained_words,
)
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from celora.errors import BaseModelError, SettingsError
from celora.tuning.templates.template_choice import choose


def test_a_missing_generation_prompt_is_added_and_told(tokenizer_with):
    template = choose(tokenizer_with(NO_GENERATION_PROMPT))
    assert template.prompt(ONE_TURN) == "USER: What is two plus two?\nASSISTANT:"
    assert "has no generation prompt" in template.warnings[0]
    assert [words.strip() for words in trained_words(template, ONE_TURN)] == ["It is four, I think.</s>"]


def test_a_template_without_an_end_token_gets_the_tokenizers_own_behind_the_last_answer(tokenizer_with):
    template = choose(tokenizer_with(NO_GENERATION_PROMPT.replace("</s>", "\n")))
    assert "</s> was added behind the last one" in template.warnings[0]
    assert template.token_text(template.end_token) == "</s>"
    assert [words.strip() for words in trained_words(template, ONE_TURN)] == ["It is four, I think.\n</s>"]
    again = choose(template.tokenizer)
    assert (again.end_token, again.added_end) == (template.end_token, "")
    assert again.render(ONE_TURN.messages) == template.render(ONE_TURN.messages)


def test_a_template_is_refused_where_nothing_names_an_end_token(tokenizer_with):
    tokenizer = tokenizer_with(NO_GENERATION_PROMPT.replace("</s>", "\n"))
    tokenizer.eos_token = None
    with pytest.raises(BaseModelError, match="would not know when to stop"):
        choose(tokenizer)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ 'always the same' }}", "don't come out"),
        ("{% for m in messages %}{{ m['content'] }", "unexpected '}'"),
    ],
)
def test_a_template_that_cannot_hold_question_and_answer_is_refused(tokenizer_with, template, words):
    with pytest.raises(BaseModelError, match=words) as caught:
        choose(tokenizer_with(template))
    assert "alpaca or chatml" in caught.value.hint


def test_unknown_names_and_missing_tokens_are_refused(tokenizer_with):
    with pytest.raises(SettingsError, match="'vicuna' is unknown"):
        choose(tokenizer_with(None), "vicuna")
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    bare = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(SettingsError, match=r"needs the tokens <\|im_start\|>"):
        choose(bare, "chatml")
    bare.eos_token = None
    with pytest.raises(BaseModelError, match="no end-of-text token"):
        choose(bare)


def test_a_named_template_in_place_of_the_bases_own_is_told(tokenizer_with):
    template = choose(tokenizer_with(CHATML), "alpaca")
    assert "has a chat template of its own" in template.warnings[0]
    assert "### Response:" in template.prompt(ONE_TURN)


def test_of_several_templates_the_default_is_taken(tokenizer_with):
    tokenizer = tokenizer_with({"default": CHATML, "tool_use": "{{ 'tools' }}"})
    assert choose(tokenizer).name == "own"
    assert tokenizer.chat_template == CHATML
    with pytest.raises(BaseModelError, match="none is called default"):
        choose(tokenizer_with({"rag": CHATML, "tool_use": CHATML}))


def test_a_template_that_writes_the_date_is_told(tokenizer_with):
    template = choose(tokenizer_with("{{ strftime_now('%Y') }}" + CHATML))
    assert "the date of the day" in template.warnings[0]
