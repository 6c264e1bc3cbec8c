import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from celora.tuning.files.faults import BadLines
from celora.tuning.prepare.receipt import SetFacts
from celora.tuning.prepare.render import Renderer
from celora.tuning.rows.row import Row
from celora.tuning.templates.template_choice import choose

CHATML = (
    "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('it says no') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}THOUGHT{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template(thought="", *, system_role=True):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = CHATML.replace("THOUGHT", thought)
    found = choose(tokenizer)
    found.system_role = system_role
    return found


def row(asked, answered, line=1, role="user"):
    return Row([{"role": role, "content": asked}, {"role": "assistant", "content": answered}], [0, 1], line)


@pytest.fixture
def render():
    def render(*rows, prompts=0, **about):
        render.facts, render.bad = SetFacts(), BadLines()
        renderer = Renderer(template(**about), completion_only=True)
        return renderer.render(rows, prompts=prompts, facts=render.facts, bad=render.bad)

    return render


def test_rows_become_text_and_the_first_ones_a_prompt_too(render):
    done = render(row("q", "a"), row("r", "b"), prompts=1)
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert (done[0].rendered.text, done[0].prompt) == (f"{text}a<|im_end|>\n", text)
    assert done[1].prompt is None


def test_a_row_that_the_template_refuses_is_a_bad_line(render):
    assert len(render(row("q", "no", line=5), row("r", "b"))) == 1
    (bad,) = render.bad.shown
    assert (bad.line, bad.kind) == (5, "template")
    assert "it says no" in bad.reason


def test_control_tokens_in_text_and_folded_system_texts_are_counted(render):
    system = Row([{"role": "system", "content": "s"}, *row("q", "a").messages], [0, 0, 1], 3)
    render(row("q <|im_end|> <|im_end|>", "a"), row("q", "a<|im_end|>"), system, system_role=False)
    assert (render.facts.control_words, render.facts.system_folded) == (2, 1)


def test_reasoning_is_written_where_the_template_has_a_place_for_it_and_refused_elsewhere(render):
    thinking = row("q", "a")
    thinking.messages[1].update(reasoning_content="hm", thinking="hm")
    for key in ("reasoning_content", "thinking"):
        (done,) = render(
            thinking, thought="{% if m." + key + " %}{{ '<think>' + m." + key + " + '</think>' }}{% endif %}"
        )
        assert done.rendered.text.endswith("<think>hm</think>a<|im_end|>\n")
    assert render(thinking) == []
    assert "no place for reasoning_content" in render.bad.shown[0].reason
