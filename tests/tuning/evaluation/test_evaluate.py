import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from celora.errors import VerificationError
from celora.storage.manifest import verify_manifest, write_manifest
from celora.tuning.protocol import EvaluateRequest, GenerateRequest, HubAccess
from celora.tuning.recipe import ResolvedRecipe

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
METRICS = ["exact_match", "rouge", "bleu"]


def recipe(quantization="none", compute_dtype="float32"):
    return ResolvedRecipe(
        rank=4, alpha=8, dropout=0, quantization=quantization, micro_batch=2, accumulation=1, effective_batch=2,
        learning_rate=1e-3, max_length=64, gradient_checkpointing=False, optimizer="adamw", compute_dtype=compute_dtype,
    )  # fmt: skip


def load(base, cache, settings):
    from celora.tuning.bases.base import load_model

    return load_model(
        base, cache, HubAccess(offline=True), quantization=settings.quantization, compute_dtype=settings.compute_dtype,
        device="cpu", emit=lambda *_, **__: None,
    )[0]  # fmt: skip


def make_adapter(base, prepared, folder, settings, cache):
    """An adapter of random weights, written as the trainer writes it; the trainer's own losses: base, tuned."""
    import torch

    from celora.tuning.adapters import lora
    from celora.tuning.batches.prepared_set import PreparedSet
    from celora.tuning.batches.row_losses import row_losses

    held_out = PreparedSet.load(prepared, "eval")
    model = load(base, cache, settings)
    bare = row_losses(model, held_out, batch_rows=2, pad_id=0, device="cpu").mean
    model = lora.attach(model, settings, base, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    folder.mkdir(parents=True)
    lora.write_adapter(model, folder)
    write_manifest(folder)
    return bare, row_losses(model, held_out, batch_rows=2, pad_id=0, device="cpu").mean


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def adapter(tiny_base, tiny_prepared, tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("run") / "adapter"
    return folder, *make_adapter(tiny_base, tiny_prepared, folder, recipe(), cache)


@pytest.fixture
def make(tiny_base, tiny_prepared, adapter, cache, tmp_path):
    def request(**changes):
        fields = {
            "job": "job", "attempt": 1, "cache_dir": str(cache), "hub": HubAccess(offline=True), "base": tiny_base,
            "prepared_dir": str(tiny_prepared), "adapter_dir": str(adapter[0]), "recipe": recipe(), "metrics": METRICS,
            "max_new_tokens": 8, "trainer_eval_loss": adapter[2], "out_dir": str(tmp_path / "evaluation"), **changes,
        }  # fmt: skip
        return EvaluateRequest(**fields)

    return request


def run(request, emit=lambda *_, **__: None):
    from celora.tuning.evaluation.evaluate import evaluate

    return evaluate(request, emit)


def test_base_and_tuned_are_measured_on_the_same_rows_with_one_model(make, adapter):
    found = run(make()).metrics
    for side, loss in (("base", adapter[1]), ("tuned", adapter[2])):
        assert found[side]["eval_loss"] == pytest.approx(loss, rel=1e-5)
        assert set(found[side]) == {
            "eval_loss", "perplexity", "exact_match", "exact_match_raw", "rouge_1", "rouge_2", "rouge_l", "bleu",
            "tokens_per_s",
        }  # fmt: skip
        assert found[side]["tokens_per_s"] > 0
    assert found["base"]["eval_loss"] != found["tuned"]["eval_loss"]
    assert found["sets"]["eval"] == {"rows": 6, "answered": 6, "base": found["base"], "tuned": found["tuned"]}


def test_every_row_is_kept_with_both_answers_and_both_losses(make, tmp_path):
    request = make()
    result = run(request)
    out = Path(request.out_dir)
    lines = [json.loads(line) for line in (out / "rows.eval.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(isinstance(line[key], str) for line in lines for key in ("prompt", "reference", "base", "tuned"))
    assert all(isinstance(line[f"exact_{side}"], bool) for line in lines for side in ("base", "tuned"))
    assert any(line["base"] != line["tuned"] for line in lines)
    assert all(line["loss_base"] != line["loss_tuned"] for line in lines)
    assert result.samples[0] == {
        "set": "eval",
        **{key: lines[0][key] for key in ("prompt", "reference", "base", "tuned")},
    }
    verify_manifest(out)
    kept = json.loads((out / "evaluation.json").read_text())
    assert kept["metrics"] == result.metrics
    assert kept["settings"]["versions"]["peft"]


def test_a_person_sees_how_far_it_is(make, recorder):
    emit = recorder()
    run(make(), emit)
    phases = emit.of("phase")
    assert {"checking the adapter", "loss of base, eval", "loss of tuned, eval", "answers of base, eval"} <= {
        each["phase"] for each in phases
    }
    assert phases[-1] == {"phase": "answers of tuned, eval", "done": 6, "total": 6}


def test_answers_are_limited_and_the_loss_is_not(make):
    request = make(max_rows=2)
    found = run(request).metrics["sets"]["eval"]
    assert (found["rows"], found["answered"]) == (6, 2)
    assert found["tuned"]["eval_loss"] == pytest.approx(request.trainer_eval_loss, rel=1e-5)
    lines = [json.loads(line) for line in (Path(request.out_dir) / "rows.eval.jsonl").read_text().splitlines()]
    assert sum(line["tuned"] is not None for line in lines) == 2


@pytest.mark.parametrize("changes", [{"max_rows": 0}, {"metrics": []}])
def test_without_rows_or_metrics_nothing_is_generated(make, changes):
    result = run(make(**changes))
    assert set(result.metrics["tuned"]) == {"eval_loss", "perplexity"}
    assert result.samples == []


@pytest.fixture
def measured(monkeypatch):
    """The calls of the loss pass, and the number of prompts of each call that decodes."""
    from celora.tuning.evaluation import evaluate as module

    calls, losses, answer = SimpleNamespace(losses=0, prompts=[]), module.row_losses, module.answer

    def row_losses(*args, **options):
        calls.losses += 1
        return losses(*args, **options)

    def answers(model, tokenizer, prompts, **options):
        calls.prompts.append(len(prompts))
        return answer(model, tokenizer, prompts, **options)

    monkeypatch.setattr(module, "row_losses", row_losses)
    monkeypatch.setattr(module, "answer", answers)
    return calls


def without_speed(metrics):
    return {side: {name: value for name, value in metrics[side].items() if name != "tokens_per_s"}
            for side in ("base", "tuned")}  # fmt: skip


def test_the_bases_side_is_measured_once_for_all_adapters_on_the_same_rows(make, measured, recorder, tmp_path):
    own = {"cache_dir": str(tmp_path / "cache")}
    first = run(make(**own))
    assert (measured.losses, measured.prompts) == (2, [6, 6])
    again = run(make(**own), emit := recorder())
    assert (measured.losses, measured.prompts) == (3, [6, 6, 6])
    assert without_speed(again.metrics) == without_speed(first.metrics)
    assert again.metrics["base"] == first.metrics["base"]
    assert again.samples == first.samples
    assert any("earlier evaluation of the same rows" in note["message"] for note in emit.of("note"))
    assert {"phase": "loss of base, eval", "done": 6, "total": 6} in emit.of("phase")
    assert {"phase": "answers of base, eval", "done": 6, "total": 6} in emit.of("phase")


@pytest.mark.parametrize("change", [{"max_new_tokens": 7}, {"max_rows": 3}, {"metrics": []}])
def test_the_bases_side_is_measured_anew_where_anything_that_shapes_it_differs(make, measured, tmp_path, change):
    own = {"cache_dir": str(tmp_path / "cache")}
    run(make(**own))
    run(make(**own, **change))
    assert measured.losses == 4


@pytest.fixture
def confirming(make_base, make_prepared, tmp_path):
    """Makes a request whose first rows hold what the tuned model answers; the other rows hold other answers."""
    import torch
    from tiny_models import write_set
    from transformers import AutoModelForCausalLM

    from celora.tuning.adapters.load import plain_peft
    from celora.tuning.batches.prepared_set import PreparedSet

    def make(config):
        base = make_base(config, config.model_type)
        prepared, adapter = make_prepared(base), tmp_path / "adapter"
        make_adapter(base, prepared, adapter, recipe(), tmp_path / "cache")
        model = plain_peft(AutoModelForCausalLM.from_pretrained(base.source), adapter).get_base_model()
        rows = []
        for i, (tokens, mask) in enumerate(PreparedSet.load(prepared, "eval")):
            prompt = torch.tensor([int(token) for token, trained in zip(tokens, mask, strict=True) if not trained])
            said = model.generate(input_ids=prompt[None], max_new_tokens=8, do_sample=False, pad_token_id=0,
                                  attention_mask=torch.ones_like(prompt)[None])[0]  # fmt: skip
            answered = said.numpy().copy()
            answered[-1] += i >= 4  # the model says something else here
            rows.append((answered, (torch.arange(len(said)) >= len(prompt)).numpy()))
        write_set(prepared, "eval.eval", rows)
        return EvaluateRequest(
            job="job", attempt=1, cache_dir=str(tmp_path / "cache"), hub=HubAccess(offline=True), base=base,
            prepared_dir=str(prepared), adapter_dir=str(adapter), recipe=recipe(), metrics=["exact_match"],
            max_new_tokens=8, out_dir=str(tmp_path / "evaluation"),
        )  # fmt: skip

    return make


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma", "phi3"])
def test_answers_that_the_loss_pass_has_shown_are_those_that_decoding_writes(confirming, measured, monkeypatch, family):
    from transformers import AutoConfig

    from celora.tuning.evaluation.confirmed import MARGINS

    extra = {"head_dim": 16} if family == "gemma" else {}
    request = confirming(AutoConfig.for_model(family, **SIZES, **extra))
    answers = {}
    for margin in (1e9, 1e-4):  # none is confirmed, then those of these small models that are
        monkeypatch.setitem(MARGINS, "float32", margin)
        run(request)
        lines = (Path(request.out_dir) / "rows.eval.jsonl").read_text().splitlines()
        answers[margin] = [json.loads(line)["tuned"] for line in lines]
    assert answers[1e9] == answers[1e-4]
    whole, rest = measured.prompts[1], measured.prompts[3]
    assert whole == 6
    assert rest <= 3  # a near tie is left to decoding


@pytest.fixture
def two_sets(tiny_prepared, tmp_path):
    folder = tmp_path / "prepared"
    shutil.copytree(tiny_prepared, folder)
    for path in list(folder.glob("eval.eval.*")):
        shutil.copy(path, folder / path.name.replace("eval.eval.", "eval.hard."))
    facts = json.loads((folder / "prepared.json").read_text())
    facts["eval_rows"] = {"eval": 6, "hard": 6}
    (folder / "prepared.json").write_text(json.dumps(facts))
    return folder


def test_several_sets_are_measured_and_the_first_is_the_one_that_counts(make, two_sets):
    request = make(prepared_dir=str(two_sets))
    found = run(request).metrics
    assert list(found["sets"]) == ["eval", "hard"]
    assert found["tuned"] == found["sets"]["eval"]["tuned"]
    assert (Path(request.out_dir) / "rows.hard.jsonl").is_file()


def test_without_held_out_rows_the_checks_still_run(make, make_prepared, tiny_base):
    request = make(prepared_dir=str(make_prepared(tiny_base, held_out=0)), trainer_eval_loss=None)
    result = run(request)
    assert result.metrics == {"base": {}, "tuned": {}, "sets": {}}
    assert [check["name"] for check in result.checks][-2:] == ["loss", "effect"]
    assert "no held-out rows" in result.warnings[0]


def test_a_bad_adapter_is_refused_before_anything_is_written(make):
    request = make(trainer_eval_loss=1.0)
    with pytest.raises(VerificationError, match="check 'loss'") as error:
        run(request)
    assert "1.0000000 in the trainer" in error.value.message
    assert not Path(request.out_dir).exists()


def test_answers_that_fail_are_a_warning_and_the_rest_is_kept(make, monkeypatch, recorder, capsys):
    from celora.tuning.evaluation import evaluate as evaluation

    def broken(*_args, **_kwargs):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(evaluation, "answer", broken)
    emit = recorder()
    result = run(make(), emit)
    assert "RuntimeError: no kernel for this" in result.warnings[0]
    assert [note["message"] for note in emit.of("note") if note["level"] == "warning"] == result.warnings
    assert "Traceback" in capsys.readouterr().err
    assert set(result.metrics["tuned"]) == {"eval_loss", "perplexity"}


def test_a_metric_that_fails_is_a_warning(make, monkeypatch):
    from celora.tuning.evaluation import metrics

    monkeypatch.setitem(metrics.METRICS, "bleu", lambda *_: 1 / 0)
    result = run(make())
    assert "bleu" not in result.metrics["tuned"]
    assert "exact_match" in result.metrics["tuned"]
    failure = "metric bleu failed: ZeroDivisionError: division by zero"
    assert result.warnings == [f"eval, base: {failure}", f"eval, tuned: {failure}"]


def test_an_earlier_evaluation_is_replaced(make):
    request = make(max_rows=1)
    out = Path(request.out_dir)
    out.mkdir(parents=True)
    (out / "rows.old.jsonl").write_text("old")
    run(request)
    assert not (out / "rows.old.jsonl").exists()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("compute_dtype", ["float32", "own"])
def test_on_an_nf4_base_the_loss_is_the_trainers_own(make, tiny_prepared, tmp_path, compute_dtype):
    from celora.tuning.device import compute_dtype as able

    settings = recipe("nf4", able("cpu") if compute_dtype == "own" else compute_dtype)
    folder = tmp_path / "nf4" / "adapter"
    request = make(adapter_dir=str(folder), recipe=settings)
    bare, tuned = make_adapter(request.base, tiny_prepared, folder, settings, Path(request.cache_dir))
    result = run(request.model_copy(update={"trainer_eval_loss": tuned}))
    assert result.metrics["tuned"]["eval_loss"] == pytest.approx(tuned, rel=1e-6)
    assert result.metrics["base"]["eval_loss"] == pytest.approx(bare, rel=1e-6)
    assert result.unquantized_layers == []


def test_prompts_are_answered_with_and_without_an_adapter(tiny_base, adapter, cache):
    from celora.tuning.evaluation.generate import generate

    request = GenerateRequest(
        job="job", attempt=1, cache_dir=str(cache), hub=HubAccess(offline=True), base=tiny_base, quantization="none",
        prompts=["w5 w6", "w7 w8 w9"], max_new_tokens=5,
    )  # fmt: skip
    bare = generate(request, lambda *_, **__: None).answers
    tuned = generate(request.model_copy(update={"adapter_dir": str(adapter[0])}), lambda *_, **__: None).answers
    assert len(bare) == len(tuned) == 2
    assert bare != tuned


SCRIPT = """
import json, sys
import numpy as np, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
adapter, prepared = sys.argv[1:]
config = json.load(open(f"{adapter}/adapter_config.json"))
base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter).eval()
tokens, mask, offsets = (np.load(f"{prepared}/eval.eval.{part}.npy") for part in ("tokens", "mask", "offsets"))
total, count = 0.0, 0
for start, end in zip(offsets, offsets[1:]):
    ids = torch.tensor(tokens[start:end], dtype=torch.long)
    trained = torch.tensor(mask[start + 1 : end], dtype=torch.bool)
    with torch.no_grad():
        scores = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    picked = scores.gather(1, ids[1:, None])[:, 0]
    total, count = total - float(picked[trained].sum()), count + int(trained.sum())
print(json.dumps({"loss": total / count, "celora": [name for name in sys.modules if name.startswith("celora")]}))
"""


@pytest.mark.slow
def test_a_script_without_celora_loads_the_published_adapter_and_gets_the_same_loss(
    make, adapter, tiny_base, tiny_prepared, tmp_path
):
    from celora.tuning.adapters.package import assemble

    result = run(make())
    published = tmp_path / "published"
    assemble(
        adapter[0], tiny_prepared, published, base=tiny_base, spec={}, resolved=recipe().model_dump(mode="json"),
        metrics=result.metrics, servable=result.servable, facts={},
    )  # fmt: skip
    script = tmp_path / "use_it.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(script), str(published), str(tiny_prepared)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["celora"] == []
    assert answer["loss"] == pytest.approx(result.metrics["tuned"]["eval_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_measured_on_the_base_as_it_will_be_served(make, tmp_path, dtype):
    as_trained, usual = recipe("nf4", "float32"), make()
    folder = tmp_path / "run" / "adapter"
    places = Path(usual.prepared_dir), folder, as_trained, Path(usual.cache_dir)
    _, trainers = make_adapter(usual.base, *places)
    request = {"recipe": as_trained, "adapter_dir": str(folder), "trainer_eval_loss": trainers}
    trained, served = run(make(**request)), run(make(**request, serving_dtype=dtype))
    assert served.metrics["tuned"]["eval_loss"] != trained.metrics["tuned"]["eval_loss"]
    facts = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["settings"]
    assert (facts["quantization"], facts["compute_dtype"]) == ("none", dtype)
    told = {check["name"]: check["detail"] for check in served.checks}
    assert f"{trainers:.6f} in the trainer" in told["loss"]
