"""TRL's training form of a template renders rows; prompts and the saved template stay the base's own."""

import pytest
from chat_families import CHATML
from template_families import NO_TEXT_CONTENT, ROWS, TEMPLATES, row, shipped, shipped_templates, tokenizer_for

from celora.errors import SettingsError
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.training_form import TRAINING, training_form

FORMS = [
    name
    for name in shipped_templates()
    if name not in NO_TEXT_CONTENT and (TEMPLATES / f"{name}_training.jinja").is_file()
]


def answers(template, messages):
    """The trained text of each turn, and the rendered row."""
    rendered = template.rendered(row(messages), completion_only=True)
    (one,) = template.border.tokenized([rendered])
    return [template.tokenizer.decode(one.ids[first:end]) for first, end in one.ranges], rendered


def test_the_form_is_found_by_the_text_of_the_template():
    found = training_form(shipped("qwen3"))
    assert (found.name, found.text) == ("qwen3", (TEMPLATES / "qwen3_training.jinja").read_text(encoding="utf-8"))
    assert found.library.startswith("trl ")
    assert training_form(shipped("qwen3") + "\n").name == "qwen3"
    assert training_form(shipped("qwen3") + " ") is None
    assert training_form("") is None


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_base_without_a_training_form_is_refused(template):
    tokenizer = tokenizer_for(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(SettingsError, match="no training form") as caught:
        choose(tokenizer, TRAINING)
    assert "turns = each" in caught.value.hint


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_6"])
def test_every_answer_of_a_conversation_keeps_its_thoughts(name):
    own, form = choose(tokenizer_for(shipped(name))), choose(tokenizer_for(shipped(name)), TRAINING)
    assert list(own.rendered(row(ROWS["two thoughts"]), completion_only=True).lost) == [1]
    written, rendered = answers(form, ROWS["two thoughts"])
    assert (rendered.lost, rendered.history_differs, rendered.prompt_differs) == ({}, True, False)
    for text, thought, answer in zip(written, ("two", "one more"), ("4", "5"), strict=True):
        assert text.removeprefix("<think>\n") == f"{thought}\n</think>\n\n{answer}<|im_end|>"


@pytest.mark.parametrize("name", FORMS)
def test_the_first_answer_follows_the_prompt_in_use_in_every_family(name):
    template = choose(tokenizer_for(shipped(name)), TRAINING)
    assert template.name == "own"
    assert template.training.name == name
    for kind in ("plain", "system", "white space"):
        written, rendered = answers(template, ROWS[kind])
        assert rendered.text.startswith(template.prompt(row(ROWS[kind]))), kind
        assert (rendered.history_differs, rendered.lost) == (False, {}), kind
        assert written[-1].endswith(template.token_text(template.end_token)), kind


@pytest.mark.parametrize("name", FORMS)
def test_the_saved_template_is_the_bases_own(name):
    tokenizer = tokenizer_for(shipped(name))
    plain = choose(tokenizer_for(shipped(name)))
    template = choose(tokenizer, TRAINING)
    if plain.added_end:  # (the form names an end token where the own template has none)
        assert (template.added_end, tokenizer.chat_template) == ("", shipped(name))
    else:
        assert tokenizer.chat_template == plain.tokenizer.chat_template
        assert template.end_token == plain.end_token
    example = row(ROWS["two thoughts"])
    assert template.prompt(example) == plain.prompt(example)
