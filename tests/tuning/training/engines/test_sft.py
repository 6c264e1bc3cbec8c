"""What is special about the TRL engine: families, options, the loss over a window, packing, trackers."""

import json
import os
from pathlib import Path

import pytest

from celora.errors import SettingsError
from celora.tuning.failures import Situation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


def run(request, record):
    from celora.tuning.training.run import train  # imports torch

    return train(request, record, record.stop)


def losses(record):
    return [event["loss"] for event in record.of("progress")]


def same_curve(one, other, tolerance=1e-5):
    assert losses(one) == pytest.approx(losses(other), abs=tolerance)


SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def family(name):
    from transformers import GemmaConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

    match name:
        case "llama":
            return LlamaConfig(**SIZES)
        case "qwen2":
            return Qwen2Config(**SIZES)
        case "mistral":
            return MistralConfig(**SIZES)
        case "gemma":
            return GemmaConfig(**SIZES, head_dim=16)
        case _:
            return Phi3Config(**SIZES)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma", "phi3"])
def test_each_family_trains_and_its_adapter_loads_with_plain_peft(
    make_base, make_prepared, make_request, recorder, *, name, quantization
):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(family(name), name)
    record = recorder()
    request = make_request(base=base, prepared=make_prepared(base), max_steps=2, quantization=quantization)
    result = run(request, record)
    assert result.steps == 2
    assert result.unquantized_layers == []
    config = json.loads((Path(result.adapter_dir) / "adapter_config.json").read_text())
    assert ("qkv_proj" in config["target_modules"]) is (name == "phi3")
    plain = AutoModelForCausalLM.from_pretrained(base.source)
    inputs = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = plain(input_ids=inputs).logits
        after = PeftModel.from_pretrained(plain, result.adapter_dir)(input_ids=inputs).logits
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 0


@pytest.mark.parametrize("options", [{"dora": True}, {"rslora": True}, {"dora": True, "quantization": "nf4"}])
def test_variants_of_lora_learn(make_request, recorder, options):
    record = recorder()
    run(make_request(epochs=6, learning_rate=1e-2, **options), record)
    assert losses(record)[-1] < losses(record)[0] - 0.1


def loaded(request, record):
    from celora.tuning.training.run import Run  # imports torch

    return Run(request, record, record.stop, Situation("cpu"))


def test_the_quantized_base_is_frozen_and_only_the_adapter_is_trained(make_request, recorder):
    import torch

    whole = loaded(make_request(max_steps=6, eval_steps=2, quantization="nf4"), recorder())
    model = whole.engine._model
    frozen = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
    # TRL casts the adapter of a quantized base to bf16; ours stays
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}
    assert whole.begin()
    while whole.advance():
        pass
    assert all(torch.equal(each, frozen[name]) for name, each in model.named_parameters() if name in frozen)


def test_gradient_checkpointing_does_not_change_the_run(make_request, recorder):
    one, other = recorder(), recorder()
    run(make_request(out="one", dropout=0.1), one)
    run(make_request(out="other", dropout=0.1, gradient_checkpointing=True), other)
    same_curve(one, other)


def test_a_packed_run_trains_on_the_same_tokens_in_fewer_sequences(make_request, recorder):
    plain, packed = recorder(), recorder()
    run(make_request(out="plain", epochs=1), plain)
    run(make_request(out="packed", epochs=1, packing=True, micro_batch=1, accumulation=1), packed)
    assert plain.of("progress")[-1]["tokens"] == packed.of("progress")[-1]["tokens"] == 250
    assert packed.of("started")[0]["planned_steps"] == 4  # 22 rows, 250 tokens, in sequences of at most 64


def test_packing_is_refused_where_the_model_lets_rows_see_each_other(make_request, recorder, monkeypatch):
    from celora.tuning.training.engines import sft

    monkeypatch.setattr(sft, "isolated", lambda *_: False)
    with pytest.raises(SettingsError, match=r"packing: this base \(llama, attention sdpa\) lets packed rows see"):
        run(make_request(packing=True), recorder())


def test_bf16_compute_keeps_an_fp32_adapter_and_an_eval_loss_that_plain_peft_has(make_request, recorder, tiny_base):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from celora.tuning.batches.prepared_set import PreparedSet
    from celora.tuning.batches.row_losses import row_losses

    request = make_request(max_steps=4, compute_dtype="bfloat16")
    result = run(request, recorder())
    tensors = load_file(Path(result.adapter_dir) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    plain = AutoModelForCausalLM.from_pretrained(tiny_base.source, dtype=torch.bfloat16)
    tuned = PeftModel.from_pretrained(plain, result.adapter_dir)
    held_out = PreparedSet.load(Path(request.prepared_dir), "eval")
    assert row_losses(tuned, held_out, batch_rows=2, pad_id=0, device="cpu").mean == pytest.approx(
        result.eval_loss, abs=5e-3
    )


def test_tensorboard_gets_the_curve(make_request, recorder, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(os, "environ", dict(os.environ))
    record, request = recorder(), make_request(max_steps=4, report_to=["tensorboard"])
    run(request, record)
    events = EventAccumulator(str(Path(request.out_dir) / "trackers" / "tensorboard"))
    events.Reload()
    logged = [point.value for point in events.Scalars("train/loss")]
    assert logged == pytest.approx(losses(record), abs=1e-6)
    assert len(events.Scalars("eval/loss")) == 4


def test_wandb_gets_the_curve_offline(make_request, recorder, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    record, request = recorder(), make_request(max_steps=3, report_to=["wandb"])
    try:
        run(request, record)
    finally:
        for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_RESUME"):
            os.environ.pop(name, None)
    logs = list((Path(request.out_dir) / "trackers" / "wandb").glob("offline-run-*-job/run-job.wandb"))
    assert len(logs) == 1
    content = logs[0].read_bytes()
    assert b"train/loss" in content
    assert b"eval/loss" in content


def test_a_run_of_one_step_is_not_all_warm_up(make_request, recorder):
    record = recorder()
    run(make_request(max_steps=1), record)
    (only,) = record.of("progress")
    assert only["learning_rate"] > 0
