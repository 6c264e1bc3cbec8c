"""Prompt and answer are tokenized as in use: the prompt alone, the answer after it."""

import pytest
from chat_families import CHATML, LLAMA3, byte_level, row, sentencepiece_like
from template_families import NO_TEXT_CONTENT, OWN, ROWS, shipped_templates, template_text, tokenizer_for
from template_families import row as family_row
from transformers import PreTrainedTokenizerFast

from celora.tuning.rows.row import Row
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError, backend

TRAILING_SPACE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ('</s>' if m['role'] == 'assistant' else '\\n') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def template_of(inner, text):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = text
    return choose(tokenizer)


def tokenized(template, example, *, completion_only=True):
    (one,) = template.border.tokenized([template.rendered(example, completion_only=completion_only)])
    return one


def sent(template, example, number):
    """The tokens that a server sends for a message of a row."""
    prompt = template.render(example.messages[:number], tools=example.tools, generation_prompt=True)
    return backend(template.tokenizer).encode(prompt, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("inner", "text", "answer", "apart"),
    [
        (byte_level, CHATML, "Four.", False),
        (byte_level, CHATML, "\nFour.", True),  # the newline of the generation prompt and the answer's own
        (byte_level, CHATML, "\n\n    Four.", True),
        (byte_level, LLAMA3, "Four.", False),
        (byte_level, TRAILING_SPACE, "It is four.", True),
        (byte_level, TRAILING_SPACE, "4", False),
        (sentencepiece_like, CHATML, "Four.", False),
        (sentencepiece_like, TRAILING_SPACE, "It is four.", True),
    ],
)
def test_an_answer_follows_the_tokens_of_its_prompt_alone(inner, text, answer, apart):
    template, example = template_of(inner(), text), row(("user", "Yes?"), ("assistant", answer))
    one, prompt = tokenized(template, example), sent(template, example, 1)
    assert (one.apart, one.shared, one.joined_turns) == (apart, False, 0)
    assert one.ids[: len(prompt)] == prompt
    assert one.ranges[0][0] == len(prompt)
    joined = backend(template.tokenizer).encode(template.render(example.messages), add_special_tokens=False).ids
    spell = template.tokenizer.decode
    assert spell(one.ids) == spell(joined)
    assert (one.ids != joined) == apart
    first, end = one.ranges[0]
    assert spell(one.ids[first:end]).strip() == answer.strip() + (
        "<|im_end|>" if text is CHATML else "</s>" if text is TRAILING_SPACE else "<|eot_id|>"
    )


@pytest.mark.parametrize(
    ("text", "answer", "apart"),
    [
        (CHATML, "Four.", False),
        (CHATML, "\nFour.", True),
        (TRAILING_SPACE, "It is four.", True),
        (LLAMA3, "\nx", False),
    ],
)
def test_the_border_stands_where_everything_carries_loss_too(text, answer, apart):
    template = template_of(byte_level(), text)
    example = row(("user", "Yes?"), ("assistant", "No."), ("user", "Why?"), ("assistant", answer))
    one, prompt = tokenized(template, example, completion_only=False), sent(template, example, 3)
    assert one.ids[: len(prompt)] == prompt
    assert (one.apart, one.shared, one.ranges) == (apart, False, [(0, len(one.ids))])
    assert one.ids == tokenized(template, example).ids
    assert template.tokenizer.decode(one.ids) == template.render(example.messages)


def test_an_earlier_answer_that_is_joined_with_its_prompt_carries_no_loss():
    template = template_of(byte_level(), CHATML)
    example = row(("user", "a"), ("assistant", "\nOne."), ("user", "b"), ("assistant", "Two."))
    one = tokenized(template, example)
    assert (one.joined_turns, one.apart, len(one.ranges)) == (1, False, 1)
    assert one.ids[: one.ranges[0][0]] == sent(template, example, 3)
    alone = row(("user", "a"), ("assistant", "\nOne."))
    assert tokenized(template, alone).ids[: len(sent(template, alone, 1))] == sent(template, alone, 1)


def test_turns_behind_the_last_trained_one_stay():
    template = template_of(byte_level(), CHATML)
    example = row(("user", "a"), ("assistant", "\nOne."), ("user", "b"), ("assistant", "Two."), weights=[0, 1, 0, 0])
    one = tokenized(template, example)
    assert one.apart
    assert template.tokenizer.decode(one.ids) == template.render(example.messages)
    first, end = one.ranges[0]
    assert template.tokenizer.decode(one.ids[first:end]) == "\nOne.<|im_end|>"


def test_running_text_has_no_border():
    one = tokenized(
        template_of(byte_level(), CHATML), Row([{"role": "assistant", "content": "\n\nx"}], [1], 1, plain=True)
    )
    assert (one.apart, one.shared, one.ranges) == (False, False, [(0, len(one.ids))])


@pytest.mark.parametrize("name", [*(name for name in shipped_templates() if name not in NO_TEXT_CONTENT), *OWN])
def test_every_trained_answer_of_every_family_follows_the_tokens_that_a_server_sends(name):
    template = choose(tokenizer_for(template_text(name)))
    for kind, messages in ROWS.items():
        example = family_row(messages)
        try:
            rendered = template.rendered(example, completion_only=True)
        except TemplateRefusalError:
            continue
        (one,) = template.border.tokenized([rendered])
        assert not one.shared
        prompt = sent(template, example, rendered.trained_turns[-1])
        assert one.ids[: len(prompt)] == prompt, kind
        assert one.ranges[-1][0] == len(prompt), kind
        if len(one.ranges) == len(rendered.spans):
            for number, (first, _) in zip(rendered.trained_turns, one.ranges, strict=True):
                before = template.render(example.messages[:number], tools=example.tools, generation_prompt=True)
                if rendered.text.startswith(before):
                    assert one.ids[:first] == sent(template, example, number), kind
