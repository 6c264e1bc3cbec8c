"""Thirty small templates, each with one behaviour of real families: the trained text is exactly the right one.

Each line of the table names the behaviour, the template, the rows and the trained texts of the turns with loss. Beside
these texts, every line holds to the same promises: the last answer follows the tokens that a server sends, it ends with
the token at which generation stops, and it is read back as the row's own words.
"""

from dataclasses import dataclass, field

import pytest
from template_families import LIMA, RESULT, ROME, row, said, thought, tokenizer_for, user

from celora.errors import BaseModelError
from celora.tuning.evaluation.readings import Reader
from celora.tuning.templates.answer_form import learn
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError, backend
from celora.tuning.templates.turn_spans import OTHER_OPENING

ONE = [user("Peru?"), said("Lima.")]
TWO = [user("Peru?"), said("Lima."), user("Chile?"), said("Santiago.")]
SYSTEM = [{"role": "system", "content": "Be brief."}, *ONE]
THOUGHTS = [user("Peru?"), said("Lima.", **thought("south")), user("Chile?"), said("Santiago.", **thought("west"))]
SAME = [user("Lima."), said("Lima."), user("Lima."), said("Lima.")]
SPACES = [user("Peru?"), said("  Lima. \n")]
CALL = [user("Lima?"), said("", LIMA), RESULT, said("Sunny.")]
CALLS = [user("Lima, Rome?"), said("", LIMA, ROME)]

HEAD = "<|im_start|>{{ m.role }}\n"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(turn, *, before="", opening=OPEN):
    """A template of turns: ``turn`` is written for each message after its header."""
    return f"{before}{{% for m in messages %}}{HEAD}{turn}{{% endfor %}}{opening}"


TOOLS = "{% for t in tools or [] %}{{ t.function.name + t.function.description }}{% endfor %}"
WRITTEN_CALL = "<tool_call>{{ c.function.name }}{{ c.function.arguments | tojson }}</tool_call>"


def with_calls(calls):
    """A template with tools that writes an answer's calls as given."""
    return TOOLS + chatml(f"{{% if m.tool_calls %}}{calls}{{% else %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>\n")


def thinking(condition):
    """A template that writes thoughts in the turns for which a condition holds."""
    words = (
        "{% if m.role == 'assistant' and ("
        + condition
        + ") %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    )
    return chatml(words + "{{ m.content }}<|im_end|>\n")


@dataclass(frozen=True)
class Reduced:
    """A template with one behaviour, and the trained texts of a row."""

    template: str
    messages: list = field(default_factory=lambda: TWO)
    trained: tuple = ("Lima.<|im_end|>", "Santiago.<|im_end|>")
    eos: str | None = None
    plain: tuple = ()
    warned: str = ""
    lost: tuple = ()


PHI = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
LAST_TURN = "{% if not add_generation_prompt %}"
PARITY = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}<|inst|>{{ m.content }}<|/inst|>{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
MERGED_SYSTEM = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content + '\n\n' %}{% elif m.role == 'user' %}<|user|>{{ ns.system + m.content }}<|end|>"
    "{% set ns.system = '' %}{% else %}<|assistant|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
CHANNEL = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}{% if m.role == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
UNKNOWN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
END = "{{ m.content }}<|im_end|>\n"

REDUCED = {
    "a line break after the end token": Reduced(chatml(END)),
    "the words of question and answer are equal": Reduced(chatml(END), SAME, ("Lima.<|im_end|>",) * 2),
    "BOS by the template": Reduced("<s>" + chatml(END)),
    "content stripped at both ends": Reduced(
        chatml("{{ m.content | trim }}<|im_end|>\n"), SPACES, ("Lima.<|im_end|>",)
    ),
    "content stripped at its end": Reduced(
        chatml("{{ m.content.rstrip() }}<|im_end|>\n"), SPACES, ("  Lima.<|im_end|>",)
    ),
    "content as it is": Reduced(chatml(END), SPACES, ("  Lima. \n<|im_end|>",)),
    "an empty thought in the generation prompt": Reduced(
        chatml(
            "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}" + END,
            opening=OPEN.replace("{% endif %}", "<think>\n\n</think>\n\n{% endif %}"),
        ),
        trained=("Santiago.<|im_end|>",),
        lost=(OTHER_OPENING,),
    ),
    "a thought opened by the generation prompt": Reduced(
        chatml(END, opening=OPEN.replace("{% endif %}", "<think>\n{% endif %}")),
        ONE,
        ("\n</think>\n\nLima.<|im_end|>",),
    ),
    "an opened thought that shares a token with an empty one": Reduced(
        chatml(
            "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}" + END,
            opening=OPEN.replace("{% endif %}", "<think>\n{% endif %}"),
        ),
        ONE,
        ("\n</think>\n\nLima.<|im_end|>",),
    ),
    "thoughts of every answer": Reduced(
        thinking("m.reasoning_content"),
        THOUGHTS,
        ("<think>\nsouth\n</think>\n\nLima.<|im_end|>", "<think>\nwest\n</think>\n\nSantiago.<|im_end|>"),
    ),
    "thoughts of the last answer alone": Reduced(
        thinking("m.reasoning_content and loop.last"),
        THOUGHTS,
        ("<think>\nwest\n</think>\n\nSantiago.<|im_end|>",),
        lost=("the thoughts of an answer",),
    ),
    "two control tokens behind the last answer": Reduced(
        PHI + "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
        trained=("Lima.<|end|>", "Santiago.<|end|>"),
        eos="<|endoftext|>",
    ),
    "the header of the next answer behind the last one": Reduced(
        chatml(END, opening="{{ '<|im_start|>assistant\n' }}")
    ),
    "another end token behind the last answer": Reduced(
        CHANNEL,
        trained=("<|channel|>final<|message|>Lima.", "<|channel|>final<|message|>Santiago.<|return|>"),
        eos="<|return|>",
        plain=(),
    ),
    "white space before the end token": Reduced(
        chatml("{{ m.content }} <|im_end|>\n"), trained=("Lima. <|im_end|>", "Santiago. <|im_end|>")
    ),
    "an end token that is not the tokenizer's": Reduced(chatml(END), eos="<|endoftext|>"),
    "an end token that is not special": Reduced(chatml(END), eos="<|endoftext|>", plain=("<|im_end|>",)),
    "no end token": Reduced(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ONE,
        ("Lima.</s>",),
        eos="</s>",
        warned="</s> was added behind the last one",
    ),
    "the last answer left open to be continued": Reduced(
        chatml("{{ m.content }}{% if not (loop.last and m.role == 'assistant') %}<|im_end|>\n{% endif %}"),
        trained=("Lima.<|im_end|>", "Santiago.<|im_end|>"),
        eos="<|im_end|>",
        warned="<|im_end|> was added behind the last one",
    ),
    "no generation prompt": Reduced(chatml(END, opening=""), warned="has no generation prompt"),
    "a generation prompt that ends with a space": Reduced(
        UNKNOWN.replace("\n", "</s>") + "{% if add_generation_prompt %}assistant: {% endif %}",
        ONE,
        ("Lima.</s>",),
        eos="</s>",
    ),
    "roles must alternate": Reduced(PARITY, trained=(" Lima.</s>", " Santiago.</s>"), eos="</s>"),
    "no system role": Reduced(NO_SYSTEM + chatml(END), SYSTEM, ("Lima.<|im_end|>",)),
    "system text in the first question": Reduced(MERGED_SYSTEM, SYSTEM, ("Lima.<|end|>",)),
    "a default system text": Reduced(DEFAULT_SYSTEM + chatml(END)),
    "the date in the system turn": Reduced(
        "<|im_start|>system\n{{ strftime_now('%Y-%m-%d') }}<|im_end|>\n" + chatml(END), warned="the date of the day"
    ),
    "another name of the role": Reduced(
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        trained=("Lima.<end_of_turn>", "Santiago.<end_of_turn>"),
    ),
    "a tool's answer carries no loss": Reduced(
        with_calls(f"{{% for c in m.tool_calls %}}{WRITTEN_CALL}{{% endfor %}}"),
        CALL,
        ('<tool_call>weather{"city": "Lima", "days": 2}</tool_call><|im_end|>', "Sunny.<|im_end|>"),
    ),
    "one call of several": Reduced(
        with_calls(f"{{% set c = m.tool_calls[0] %}}{WRITTEN_CALL}"), CALLS, (), lost=("a tool call",)
    ),
    "a call by its id alone": Reduced(
        with_calls("{% for c in m.tool_calls %}{{ c.id }}{{ c.function.arguments | tojson }}{% endfor %}"),
        CALL,
        (),
        lost=("tool call",),
    ),
    "thoughts of no answer": Reduced(
        chatml("{{ m.content.split('</think>')[-1] }}<|im_end|>\n"),
        [user("2+2?"), said("<think>two</think>4")],
        (),
        lost=("the thoughts of an answer",),
    ),
}  # fmt: skip


def made(case):
    template = choose(tokenizer_for(case.template, eos=case.eos, plain=case.plain))
    assert not case.warned or case.warned in template.warnings[0]
    return template


@pytest.mark.parametrize("name", [name for name, case in REDUCED.items() if case.trained])
def test_the_trained_text_is_the_answer_and_its_end_and_follows_the_prompt_in_use(name):
    case = REDUCED[name]
    template, example = made(case), row(case.messages)
    rendered = template.rendered(example, completion_only=True)
    (one,) = template.border.tokenized([rendered])
    spell = template.tokenizer.decode
    assert tuple(spell(one.ids[first:end]) for first, end in one.ranges) == case.trained
    assert tuple(rendered.lost.values()) == case.lost
    # a server sends these tokens for the last answer, once with BOS at most
    prompt = template.tokenizer.apply_chat_template(
        template_messages(template, example), tools=example.tools or None, add_generation_prompt=True, tokenize=False
    )
    sent = backend(template.tokenizer).encode(prompt, add_special_tokens=False).ids
    first, end = one.ranges[-1]
    assert (one.ids[:first], one.shared) == (sent, False)
    assert one.ids.count(template.tokenizer.bos_token_id) <= 1
    # the answer stops where generation stops, not earlier
    stops = template.stop_tokens()
    assert [token in stops for token in one.ids[first:end]] == [False] * (end - first - 1) + [True]
    # a model that writes these tokens is right
    reading = Reader(template.tokenizer, learn(template)).read(one.ids[first:end], tools=bool(example.tools))
    assert reading.words == case.messages[-1]["content"].strip()


def template_messages(template, example):
    """The messages before the last answer, as a client sends them to a server with this template."""
    messages = [dict(message) for message in example.messages[:-1]]
    if not template.system_role and messages[0]["role"] == "system":
        system = messages.pop(0)
        messages[0]["content"] = system["content"] + "\n\n" + messages[0]["content"]
    return template.tool_support.form.written(messages) if example.tools else messages


@pytest.mark.parametrize("name", [name for name, case in REDUCED.items() if not case.trained])
def test_a_row_whose_words_the_template_loses_is_refused_in_words(name):
    case = REDUCED[name]
    with pytest.raises(TemplateRefusalError, match=case.lost[0]):
        made(case).rendered(row(case.messages), completion_only=True)


def test_each_behaviour_is_in_the_table_once():
    assert len(REDUCED) >= 30
    assert len({case.template + str(case.messages) for case in REDUCED.values()} | {"eos"}) >= 29


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([user("a"), user("b"), said("c")], "roles must alternate"),
        ([{"role": "system", "content": "s"}, user("a"), user("b"), said("c")], "roles must alternate"),
    ],
)
def test_turns_that_do_not_alternate_are_refused_in_the_templates_words(messages, words):
    with pytest.raises(TemplateRefusalError, match=words):
        choose(tokenizer_for(PARITY)).rendered(row(messages), completion_only=True)


def test_a_template_without_an_end_anywhere_is_refused():
    tokenizer = tokenizer_for(UNKNOWN)
    tokenizer.eos_token = None
    with pytest.raises(BaseModelError, match="without an end token"):
        choose(tokenizer)
