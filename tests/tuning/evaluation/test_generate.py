import warnings
from pathlib import Path

import pytest

from celora.tuning.protocol import HubAccess

PROMPTS = [[5, 6, 7], [9], [40, 41, 42, 43, 44, 45, 46], [5, 6], [80, 3, 80], [12, 13, 14, 15]]


@pytest.fixture(scope="module")
def tuned(tiny_base, tmp_path_factory):
    """The tiny base with an adapter of random weights, and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    from celora.tuning.bases.base import load_model, load_tokenizer

    model, _ = load_model(
        tiny_base, tmp_path_factory.mktemp("cache"), HubAccess(offline=True), quantization="none",
        compute_dtype="float32", device="cpu", emit=lambda *_, **__: None,
    )  # fmt: skip
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    return model.get_base_model(), load_tokenizer(Path(tiny_base.source))


def ask(tuned, prompts, **changes):
    from celora.tuning.evaluation.generate import answer

    settings = {"stop_tokens": [1], "max_new_tokens": 12, "context_tokens": 128, "device": "cpu", **changes}
    return answer(*tuned, prompts, **settings)


def by_hand(model, prompt, steps):
    """Greedy decoding without batch, padding or cache."""
    import torch

    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_batched_answers_equal_those_one_by_one_and_those_made_by_hand(tuned):
    model, tokenizer = tuned
    batched = ask(tuned, PROMPTS)
    assert batched.texts == [ask(tuned, [prompt]).texts[0] for prompt in PROMPTS]
    assert batched.texts == [
        tokenizer.decode(by_hand(model, prompt, 12), skip_special_tokens=True).strip() for prompt in PROMPTS
    ]
    assert len(set(batched.texts)) == len(PROMPTS)
    assert batched.tokens == 12 * len(PROMPTS)


def test_batches_of_any_size_give_the_same_answers_in_the_prompts_order(tuned):
    assert ask(tuned, PROMPTS, batch_rows=4).texts == ask(tuned, PROMPTS, batch_rows=2).texts


def test_an_answer_ends_before_a_stop_token_and_the_batch_when_all_have(tuned):
    model, tokenizer = tuned
    written = [by_hand(model, prompt, 12) for prompt in PROMPTS]
    stop = written[0][3]
    found = ask(tuned, PROMPTS, stop_tokens=[stop])
    kept = [row[: row.index(stop) + 1] if stop in row else row for row in written]
    words = [[token for token in row if token != stop] for row in kept]
    assert found.texts == [tokenizer.decode(row, skip_special_tokens=True).strip() for row in words]
    assert found.tokens == sum(map(len, kept))


def test_answers_stay_within_the_context_and_a_prompt_that_fills_it_gets_none(tuned):
    found = ask(tuned, [[5] * 6, [7] * 10], context_tokens=10)
    assert len(found.texts[0].split()) == 4
    assert found.texts[1] == ""
    assert found.unanswered == 1


def test_the_bases_own_sampling_settings_change_nothing(tuned):
    model, _ = tuned
    plain = ask(tuned, PROMPTS).texts
    own = model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature = 3.0, True, 5.0
    try:
        assert ask(tuned, PROMPTS).texts == plain
        assert model.generation_config is own
    finally:
        own.repetition_penalty, own.do_sample, own.temperature = None, None, None


def test_a_temperature_samples(tuned):
    import torch

    torch.manual_seed(3)
    assert ask(tuned, PROMPTS, temperature=3.0).texts != ask(tuned, PROMPTS).texts


def test_progress_never_falls_and_ends_at_the_number_of_prompts(tuned, monkeypatch):
    from celora.tuning.evaluation import generate

    monkeypatch.setattr(generate, "REPORT_EVERY_S", 0.0)
    seen = []
    ask(tuned, PROMPTS, batch_rows=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (6, 6)
    assert len(seen) > 12


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tuned, monkeypatch):
    import torch

    from celora.tuning.evaluation import generate

    sizes, real = [], generate.decode

    def cramped(model, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, prompts, *rest)

    expected = ask(tuned, PROMPTS).texts
    monkeypatch.setattr(generate, "decode", cramped)
    assert ask(tuned, PROMPTS).texts == expected
    assert sizes == [6, 3, 1, 2, 3, 1, 2]


def test_no_prompts_give_no_answers(tuned):
    assert ask(tuned, []).texts == []
