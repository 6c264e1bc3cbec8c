import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from celora.tuning.faults import BadLines
from celora.tuning.formats import Row
from celora.tuning.receipt import SetFacts
from celora.tuning.shapes import Shapes
from celora.tuning.templates import TemplateRefusalError, choose
from celora.tuning.texts import Writing

# In the manner of real families' templates, with what makes each of them hard.
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRIPS = (  # Llama 3: each message's white space is stripped
    "{{ bos_token }}{% for m in messages %}{% set content = '[' + m['role'] + ']\n\n' + m['content'] | trim + '</s>' %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
FOLDS = (  # Llama 2: the system text stands inside the first turn, which is stripped as a whole
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set turns = messages %}{% set system = false %}{% endif %}"
    "{% for m in turns %}{% if loop.index0 == 0 and system != false %}"
    "{% set content = ' <<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<' + m['role'] + '>\n' + m['content'] | trim + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)
ASKS = (  # Qwen 3: looks for marks in the words, and treats such rows in another way
    "{% for m in messages %}{% if m.content is string and m.content %}{% set content = m.content %}{% endif %}"
    "{% if m.role == 'user' and content.startswith('<tool>') %}{{ 'TOOL' + content + '\n' }}"
    "{% elif m.role == 'assistant' and '</think>' in content %}{{ 'A:' + content.split('</think>')[-1] + '</s>' }}"
    "{% elif content == 'stop' %}{{ 'STOP' }}"
    "{% else %}{{ m.role + ':' + content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
MACRO = (
    "{% macro said(m) %}{{ '<' ~ m.role ~ '>' }}{{ m.content }}{% endmacro %}"
    "{% for m in messages %}{{ said(m) }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
BLOCK = (
    "{% for m in messages %}{% set all %}<{{ m.role }}> {{ m.content }} {% endset %}{{ all | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
COUNTS = (
    "{% for m in messages %}{{ m.role + ':' + m.content }}{% if m.content | length > 20 %}{{ '!' }}{% endif %}</s>"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
JOINED = (  # the words' own text, made plain by a method of another string, then asked for its length
    "{% for m in messages %}{% set all = ''.join([m.role, ':', m.content]) %}{{ all }}"
    "{% if all | length > 30 %}{{ '!' }}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
PERCENT = (
    "{% for m in messages %}{{ '%s:%s</s>' % (m.role, m.content) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
FILLED = {"chatml": CHATML, "strips": STRIPS, "folds": FOLDS, "no_system": NO_SYSTEM, "asks": ASKS, "block": BLOCK}
RENDERED = {"macro": MACRO, "counts": COUNTS, "joined": JOINED, "percent": PERCENT}

WORDS = [
    "What is two plus two?", "  Four, \n", "\nyes", "<tool>4</tool>", "x </think> y", "stop", " stop ", "a\u00a0b ",
    "\ue0a30\ue0a4", "{{ messages }}", "</s>", "long " * 12,
]  # fmt: skip
ROLES = [
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("user", "user", "assistant"),
    ("assistant", "user", "assistant"),
]


@pytest.fixture
def template_of():
    def template_of(source):
        inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        tokenizer.chat_template = source
        return choose(tokenizer)

    return template_of


def rows():
    for roles in ROLES:
        for shift in range(len(WORDS)):
            words = [WORDS[(shift + 5 * number) % len(WORDS)] for number in range(len(roles))]
            messages = [{"role": role, "content": said} for role, said in zip(roles, words, strict=True)]
            weights = [int(role == "assistant") for role in roles]
            yield Row(messages, weights, 1)
            yield Row(messages, [weight * (number == len(roles) - 1) for number, weight in enumerate(weights)], 1)


def written(template, rows, *, completion_only=True, in_bytes=False):
    """Each row's text, its loss (in characters or bytes, or None) and its prompt, or why the template refuses it."""
    facts, bad = SetFacts(), BadLines()
    usual = [(turns_of(row), [message["content"] for message in row.messages]) for row in rows]
    numbers = range(1, len(rows) + 1)
    writing = Writing(template, completion_only=completion_only)
    texts = writing.texts(usual, list(numbers), asks=len(rows), in_bytes=in_bytes, facts=facts, bad=bad)
    refused = {line.line: line.reason for line in bad.shown}
    found = {}
    for place, (line, text) in enumerate(zip(texts.lines, texts.said, strict=True)):
        told = texts.spans[texts.spans[:, 0] == place, 1:].tolist()
        if place in texts.others:
            assert texts.others[place].text == text
            spans = texts.others[place].spans
            told = None if spans is None else [[span.start, span.end] for span in spans]
        found[line] = text, told, texts.asked[place]
    return [found.get(number, refused.get(number)) for number in numbers]


def turns_of(row):
    return tuple(message["role"] for message in row.messages), tuple(row.weights)


def rendered(template, row, *, completion_only=True):
    """The same, of the template alone."""
    try:
        text, spans = (one := template.rendered(row, completion_only=completion_only)).text, one.spans
        return text, spans and [[span.start, span.end] for span in spans], template.prompt(row)
    except TemplateRefusalError as error:
        return f"the base's chat template refuses the row: {str(error).rstrip('.')}"


@pytest.mark.parametrize("name", [*FILLED, *RENDERED])
@pytest.mark.parametrize("completion_only", [True, False])
def test_filling_in_gives_what_the_template_renders(template_of, name, completion_only):
    template = template_of({**FILLED, **RENDERED}[name])
    expected = [rendered(template, row, completion_only=completion_only) for row in rows()]
    assert written(template, list(rows()), completion_only=completion_only) == expected
    assert [written(template, [row], completion_only=completion_only)[0] for row in rows()] == expected


@pytest.mark.parametrize("name", FILLED)
def test_loss_in_bytes_is_where_it_is_in_characters(template_of, name):
    template = template_of(FILLED[name])
    characters, in_bytes = (written(template, list(rows()), in_bytes=asked) for asked in (False, True))
    told = 0
    for row, one, other in zip(rows(), characters, in_bytes, strict=True):
        if isinstance(one, str):
            assert other == one
            continue
        text, spans, _ = one
        assert other[0] == text
        if other[1] != spans:  # (a row that went through the template is told in characters always)
            told += 1
            assert other[1] == [[len(text[:edge].encode()) for edge in span] for span in spans], row
    assert told or all(text.isascii() for text, *_ in (one for one in characters if not isinstance(one, str)))


def calls(monkeypatch, template, row):
    """How often the template runs for a row of a shape that is known."""
    known = Row([{**message, "content": "first"} for message in row.messages], row.weights, 1)
    ran = []
    with monkeypatch.context() as patch:
        shapes = Shapes(template)
        shapes.of(turns_of(known), [[message["content"] for message in known.messages]])
        patch.setattr("celora.tuning.texts.Shapes", lambda _template: shapes)
        patch.setattr(type(template), "render", lambda *_args, **_options: ran.append(1) or "first")
        written(template, [row])
    return len(ran)


def turn(asked, answered):
    return Row([{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], [0, 1], 1)


@pytest.mark.parametrize("name", FILLED)
def test_a_row_of_a_known_shape_costs_no_run_of_the_template(template_of, monkeypatch, name):
    assert calls(monkeypatch, template_of(FILLED[name]), turn("What?", " That. ")) == 0


@pytest.mark.parametrize("name", RENDERED)
def test_a_template_that_looks_into_the_words_runs_for_every_row(template_of, monkeypatch, name):
    assert calls(monkeypatch, template_of(RENDERED[name]), turn("What?", "That.")) > 0


@pytest.mark.parametrize("row", [turn("<tool>x", "a"), turn("a", "b </think> c"), turn("stop", "a")])
def test_a_row_that_answers_the_templates_question_with_yes_goes_through_it(template_of, monkeypatch, row):
    assert calls(monkeypatch, template_of(ASKS), row) > 0


@pytest.mark.parametrize("row", [turn("a", " "), turn("", "a")])
def test_a_row_with_blank_words_goes_through_the_template(template_of, monkeypatch, row):
    assert calls(monkeypatch, template_of(CHATML), row) > 0
