"""Masks over tokens: compared with the template rendered turn by turn, and at their edges."""

import json

import pytest
from chat_families import (
    CHATML,
    END,
    FAMILIES,
    MANY_TURNS,
    ONE_TURN,
    WEIGHED,
    row,
    trained_words,
    turn_by_turn,
    without_white_tail,
)
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from celora.tuning.rows.row_reader import read
from celora.tuning.templates.loss_masks import Span, masked, trained_ranges
from celora.tuning.templates.template_choice import choose


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("example", [ONE_TURN, MANY_TURNS, WEIGHED], ids=["one turn", "many turns", "weighed"])
def test_the_mask_is_that_of_the_template_rendered_turn_by_turn(tokenizer_with, family, example):
    tokenizer = tokenizer_with(FAMILIES[family])
    template = choose(tokenizer)
    assert template.name == "own"
    rendered = template.rendered(example, completion_only=True)
    (one,) = template.encode([rendered])
    whole, mask = turn_by_turn(tokenizer, example)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    assert (rendered.marked_turns, rendered.prompt_differs) == (0, False)
    assert (one.tokens.dtype, one.mask.dtype) == ("int32", "uint8")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_on_the_answers_and_their_end_tokens_and_on_nothing_else(tokenizer_with, family):
    template = choose(tokenizer_with(FAMILIES[family]))
    answers = ["It is four.", "Six, naïve \U0001f600 as it is.", "No."]
    assert [words.lstrip() for words in trained_words(template, MANY_TURNS)] == [a + END[family] for a in answers]
    assert [words.lstrip() for words in trained_words(template, WEIGHED)] == [
        answers[0] + END[family],
        answers[2] + END[family],
    ]
    assert template.tokenizer.convert_ids_to_tokens(template.end_token) == END[family]
    assert template.end_token in template.stop_tokens()


def test_loss_on_everything_where_it_is_asked_for(tokenizer_with):
    template = choose(tokenizer_with(CHATML))
    (one,) = template.encode([template.rendered(ONE_TURN, completion_only=False)])
    assert one.mask.all()


def test_an_answer_without_an_end_is_trained_up_to_the_stop_token_that_the_base_names(tokenizer_with):
    written = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    tokenizer = tokenizer_with(written + "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    stop = tokenizer.convert_tokens_to_ids("<|user|>")
    template = choose(tokenizer, stops=[stop, 10**6])
    assert stop in template.stop_tokens()
    assert 10**6 not in template.stop_tokens()
    assert trained_words(template, MANY_TURNS)[0].endswith("<|user|>")
    assert trained_words(template, MANY_TURNS)[-1].endswith("</s>")


@pytest.mark.parametrize("tail", ["\n<s>", "<s>", "\n### Response:\n"])
def test_what_a_template_writes_behind_the_end_token_carries_no_loss(tokenizer_with, tail):
    template = choose(
        tokenizer_with(
            CHATML + "{% if not add_generation_prompt %}{{ '" + tail.replace("\n", "\\n") + "' }}{% endif %}"
        )
    )
    assert trained_words(template, ONE_TURN)[-1] == "It is four, I think.<|im_end|>"


def test_an_end_token_that_is_not_special_ends_a_turn(tokenizer_with):
    tokenizer = tokenizer_with(CHATML.replace("<|im_end|>", "<plain_end>"))
    tokenizer.add_tokens([AddedToken("<plain_end>", normalized=False)])  # as the models that have such tokens
    template = choose(tokenizer)
    assert template.token_text(template.end_token) == "<plain_end>"
    assert trained_words(template, ONE_TURN) == ["It is four, I think.<plain_end>"]


def test_a_token_on_both_sides_of_the_border_carries_loss_if_it_holds_the_answers_words():
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "ab": 1, "a": 2, "b": 3, "</s>": 4, "x": 5}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + ' a' }}"
        "{% else %}{{ m['content'] + ' </s>' }}{% endif %}{% endfor %}"
    )
    template = choose(tokenizer)
    (one,) = template.encode([template.rendered(row(("user", "x"), ("assistant", "b")), completion_only=True)])
    assert (one.tokens.tolist(), one.mask.tolist()) == ([5, 1, 4], [0, 1, 1])


ANSWERED = {"role": "assistant", "content": "It is four, I think."}


SAME_ROWS = {
    "chat": {"messages": [{"role": "user", "content": "Yes?"}, ANSWERED]},
    "prompt-completion": {"prompt": "Yes?", "completion": " It is four, I think."},
    "messages": {"prompt": [{"role": "user", "content": "Yes?"}], "completion": [ANSWERED]},
    "alpaca": {"instruction": "Yes?", "input": "", "output": "It is four, I think."},
    "sharegpt": {"conversations": [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": ANSWERED["content"]}]},
    "prompt-response": {"prompt": "Yes?", "response": "It is four, I think."},
    "question-answer": {"question": "Yes?", "answer": "It is four, I think."},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_is_right_in_every_format(tokenizer_with, tmp_path, family):
    tokenizer = tokenizer_with(FAMILIES[family])
    template = choose(tokenizer)
    for name, given in SAME_ROWS.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(given))
        (example,) = read(path).rows
        (one,) = template.encode([template.rendered(example, completion_only=True)])
        whole, mask = turn_by_turn(tokenizer, example)
        assert one.tokens.tolist() == whole, name
        assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask), name
        assert trained_words(template, example)[0].strip() == "It is four, I think." + END[family]


@pytest.fixture(scope="module")
def words():
    """Encodes a text of words; ``</s>`` has the number 1 and is special, ``<end>`` the number 2 and is not."""
    vocabulary = {"<unk>": 0, "</s>": 1, "<end>": 2, "q": 3, "a": 4, "b": 5}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return inner.encode


@pytest.mark.parametrize(
    ("text", "spans", "mask"),
    [
        ("q a b </s>", None, [1, 1, 1, 1]),
        ("q a b </s>", [], [0, 0, 0, 0]),
        ("q a b </s>", [Span(2, 5)], [0, 1, 1, 0]),
        ("q a b </s>", [Span(2, 5, with_end_token=True)], [0, 1, 1, 1]),
        ("q a b q </s>", [Span(2, 5, with_end_token=True)], [0, 1, 1, 0, 0]),
        ("q a b </s> q", [Span(2, 12)], [0, 1, 1, 1, 0]),
        ("q a <end> b </s>", [Span(2, 16)], [0, 1, 1, 0, 0]),
        ("q a <end> b </s>", [Span(2, 16, words_end=10)], [0, 1, 1, 1, 1]),
        ("q a q b </s>", [Span(2, 3), Span(6, 7, with_end_token=True)], [0, 1, 0, 1, 1]),
        ("q a", [Span(3, 3)], [0, 0]),
        ("", [Span(0, 0)], []),
    ],
)
def test_a_span_of_characters_becomes_tokens(words, text, spans, mask):
    encoding = words(text)
    ranges = trained_ranges(encoding, encoding.ids, text, spans, special=frozenset({1}), ends=frozenset({1, 2}))
    made = masked(encoding.ids, ranges)
    assert made.mask.tolist() == mask
    assert len(made.tokens) == len(mask)


def test_ranges_are_in_the_order_of_their_spans(words):
    text = "q a q b"
    encoding = words(text)
    ranges = trained_ranges(
        encoding, encoding.ids, text, [Span(2, 3), Span(6, 7)], special=frozenset(), ends=frozenset()
    )
    assert ranges == [(1, 2), (3, 4)]
