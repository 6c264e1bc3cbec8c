"""The words of answers and their calls, read back under the templates of all families that the installed TRL ships."""

import json

import pytest
from template_families import NO_TEXT_CONTENT, OWN, ROWS, row, shipped, shipped_templates, template_text, tokenizer_for

from celora.errors import BaseModelError
from celora.tuning.evaluation.metrics import exact
from celora.tuning.evaluation.readings import Reader
from celora.tuning.templates.answer_form import AnswerForm, learn
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError


def as_text(arguments):
    return {name: str(value) for name, value in arguments.items()}


def answers(template, messages):
    """The token ids that a model is trained to write, turn by turn; nothing where the template refuses the row."""
    try:
        rendered = template.rendered(row(messages), completion_only=True)
    except TemplateRefusalError:
        return None
    (one,) = template.border.tokenized([rendered])
    return [one.ids[first:end] for first, end in one.ranges]


FAMILIES = [*(name for name in shipped_templates() if name not in NO_TEXT_CONTENT), *OWN]
BY_ID_ALONE = {"kimi"}
"""Families that write a call by its id, which is no name that could be read back."""


def named_ids(messages):
    """Messages whose calls have the ids of Kimi: functions.NAME:NUMBER."""
    return json.loads(json.dumps(messages).replace('"call_', '"functions.weather:'))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_writes_its_trained_tokens_is_right_word_by_word_and_call_by_call(name):
    template = choose(tokenizer_for(template_text(name)))
    reader = Reader(template.tokenizer, learn(template))
    read = 0
    for kind, messages in ROWS.items():
        written = answers(template, named_ids(messages) if name in BY_ID_ALONE else messages)
        if written is None:
            continue
        answer = messages[-1]
        words, wanted = answer["content"].split("</think>")[-1].strip(), answer.get("tool_calls", [])
        reading = reader.read(written[-1], tools=bool(wanted))
        assert exact(template.decoded(written[-1]), reading.text), "exact_match_raw: the reference of a held-out row"
        assert exact(reader.read(written[-1], tools=False).words, reading.words)
        if wanted and name in BY_ID_ALONE:
            assert words in reading.words
        elif not wanted:
            assert reading.words == words, (kind, reading)
        else:
            found = [(call.name, as_text(call.arguments)) for call in reading.calls]
            assert found == [("weather", as_text(json.loads(call["function"]["arguments"]))) for call in wanted], kind
            assert words in reading.words
        read += 1
    assert read >= 4, "a family that takes hardly any row is not tested"


@pytest.mark.parametrize("name", sorted(NO_TEXT_CONTENT))
def test_a_template_of_parts_alone_is_refused(name):
    with pytest.raises(BaseModelError, match="template = alpaca"):
        choose(tokenizer_for(shipped(name)))


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("qwen3", "Lima.<|im_end|>", "Lima."),
        ("qwen3", "<think>\n\n</think>\n\nLima.<|im_end|>", "Lima."),
        ("qwen3", "<think>\nPeru is south.\n</think>\n\nLima.", "Lima."),
        ("qwen3", "<think>\nPeru is south, and so", ""),
        ("gptoss", "<|channel|>final<|message|>Lima.<|return|>", "Lima."),
        ("gptoss", "<|channel|>analysis<|message|>S<|end|><|start|>assistant<|channel|>final<|message|>Lima.", "Lima."),
        ("cohere2", "<|START_RESPONSE|>Lima.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "Lima."),
        ("glm4moe", "\n<think></think>\nLima.", "Lima."),
        ("qwen2_5", '<tool_call>\n{"name": "weather", "arguments": {"days": 2, "city": "L"}}\n</tool_call><|im_end|>',
         'weather {"city": "L", "days": 2}'),
    ],
)  # fmt: skip
def test_the_scaffold_is_taken_off_an_answer_whether_the_model_wrote_it_or_not(name, written, words):
    assert learn(choose(tokenizer_for(shipped(name)))).words(written) == words


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_5_think", "glm4moe", "lfm2_2_5", "gemma4", "llama3_1", "gptoss"])
def test_what_is_no_whole_call_is_read_as_words(name):
    template = choose(tokenizer_for(shipped(name)))
    form = learn(template)
    (written,) = answers(template, ROWS["call"])
    whole = template.tokenizer.decode(written)
    (call,) = form.calls(whole)
    assert call.name == "weather"
    for cut in range(len(whole.partition("2")[0])):
        assert form.calls(whole[:cut]) == []
    assert form.calls("I would call weather with Lima.") == []


def test_a_form_that_nothing_was_learned_for_keeps_the_text():
    form = AnswerForm()
    assert (form.words(" Lima. "), form.calls('{"name": "x", "arguments": {}}')) == ("Lima.", [])
