"""One run of training from request to adapter, on a real tiny model: events, drain, exact resume, refusals."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celora.errors import (
    DeviceError,
    DiskFullError,
    DivergedError,
    NonFiniteError,
    OutOfMemoryError,
    SettingsError,
    StorageError,
)
from celora.storage.manifest import file_sha256, verify_manifest
from celora.tuning.failures import Situation
from celora.tuning.recipe import Adjusted, ResolvedRecipe
from celora.tuning.training import checkpoint

pytestmark = pytest.mark.slow

MEASURED = ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch")
EXACT = {"dropout": 0.1, "micro_batch": 2, "accumulation": 2, "epochs": 3}


def trace(record):
    """What must be equal to the bit in two runs that are one."""
    return [tuple(event[name] for name in MEASURED) for event in record.of("progress")]


def adapter_sha256(request):
    return file_sha256(Path(request.out_dir) / "adapter" / "adapter_model.safetensors")


def run(request, record):
    from celora.tuning.training.run import train  # imports torch

    return train(request, record, record.stop)


def stop_at(step):
    def on(record, event, fields):
        if event == "progress" and fields["step"] == step:
            record.stop.set()

    return on


def resumed(request, folder, **fields):
    return request.model_copy(update={"attempt": 2, "resume_from": str(folder), **fields})


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the old name
def test_a_run_ends_with_a_committed_adapter_and_the_loss_it_has(make_request, recorder, tiny_base):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from celora.tuning.batches.prepared_set import PreparedSet
    from celora.tuning.batches.row_losses import row_losses

    record, request = recorder(), make_request(epochs=8, learning_rate=1e-2)
    result = run(request, record)
    assert [name for name in record.names if name in {"started", "progress", "done"}] == ["started"] + ["progress"] * 48
    losses = [event["loss"] for event in record.of("progress")]
    assert result.steps == result.planned_steps == 48
    assert result.train_loss == pytest.approx(sum(losses) / 48)
    assert losses[-1] < losses[0] - 0.3
    assert result.tokens == record.of("progress")[-1]["tokens"] == 8 * 250
    assert result.trainable_parameters == 8192
    started = record.of("started")[0]
    assert (started["planned_steps"], started["resume_step"]) == (48, 0)
    assert verify_manifest(Path(result.adapter_dir))["step"] == 48
    plain = AutoModelForCausalLM.from_pretrained(tiny_base.source)
    tuned = PeftModel.from_pretrained(plain, result.adapter_dir)
    with torch.no_grad():
        again = row_losses(
            tuned, PreparedSet.load(Path(request.prepared_dir), "eval"), batch_rows=3, pad_id=0, device="cpu"
        ).mean
    assert again == pytest.approx(result.eval_loss, abs=1e-5)
    assert json.loads((Path(result.adapter_dir) / "adapter_config.json").read_text())["r"] == 4


def test_samples_are_short_greedy_answers_to_held_out_prompts(make_request, recorder):
    record = recorder()
    run(make_request(epochs=1), record)
    samples = record.of("sample")
    assert len(samples) == 2 * len(record.of("eval")) == 8
    assert all(len(sample["answer"].split()) <= 24 and sample["prompt"] and sample["reference"] for sample in samples)


def test_a_run_without_held_out_rows_has_no_eval_loss(make_request, make_prepared, recorder, tiny_base):
    record = recorder()
    result = run(make_request(prepared=make_prepared(tiny_base, held_out=0), epochs=1), record)
    assert result.eval_loss is None
    assert record.of("eval") == record.of("sample") == []


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"quantization": "none"}, 6),  # the end of an epoch
        ({"quantization": "none", "packing": True, "gradient_checkpointing": True}, 2),
        ({"quantization": "nf4"}, 8),
        ({"quantization": "nf4", "compute_dtype": "bfloat16"}, 3),
    ],
)
def test_a_drained_run_goes_on_to_the_same_bits_with_no_step_twice(make_request, recorder, settings, at):
    whole, request = recorder(), make_request(out="whole", **EXACT, **settings)
    expected = run(request, whole)
    first, drained = recorder(stop_at(at)), make_request(out="drained", **EXACT, **settings)
    assert run(drained, first) is None
    assert first.events[-1] == ("drained", {"step": at})
    assert first.names[-2] == "checkpoint"
    second = recorder()
    result = run(resumed(drained, first.of("checkpoint")[0]["path"]), second)
    assert second.of("started")[0]["resume_step"] == at
    assert trace(first) + trace(second) == trace(whole)
    assert first.of("eval") + second.of("eval") == whole.of("eval")
    assert adapter_sha256(drained) == adapter_sha256(request)
    assert (result.eval_loss, result.train_loss, result.tokens) == (
        expected.eval_loss,
        expected.train_loss,
        expected.tokens,
    )


def program(request, kill_at=None):
    """Run the trainer program on a request; its events. With ``kill_at``, SIGKILL once that step is reported."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "celora.tuning.trainer", "--events-fd", str(write_end)]
    events = []
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[write_end]
        ) as process,
        os.fdopen(read_end) as lines,
    ):
        os.close(write_end)
        process.stdin.write(request.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        for line in lines:
            event = json.loads(line)
            events.append((event["event"], event))
            if event["event"] == "progress" and event["step"] == kill_at:
                process.send_signal(signal.SIGKILL)
        process.stdin.close()
        log = process.stderr.read().decode()
    return events, process.returncode, log


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_killed_run_resumes_in_a_fresh_process_to_the_same_bits(make_request, recorder, quantization):
    settings = {**EXACT, "quantization": quantization, "save_steps": 4}
    whole, request = recorder(), make_request(out="whole", **settings)
    run(request, whole)
    killed = make_request(out="killed", **settings)
    events, code, _ = program(killed, kill_at=10)
    assert code == -signal.SIGKILL
    step, saved = checkpoint.committed(Path(killed.out_dir) / "checkpoints")[0]
    assert step == 8
    events, code, log = program(resumed(killed, saved))
    assert code == 0, log
    again = recorder()
    again.events = events
    assert trace(again) == trace(whole)[8:]
    assert adapter_sha256(killed) == adapter_sha256(request)


def test_early_stopping_hands_out_the_best_adapter_and_its_loss(make_request, recorder):
    import torch
    from safetensors.torch import load_file

    # a learning rate that learns, then runs away: the eval loss falls and rises again
    settings = {"epochs": 30, "learning_rate": 0.05, "eval_steps": 5, "early_stopping_patience": 2, "save_steps": 5}
    record, request = recorder(), make_request(**settings, request={"keep_checkpoints": 100})
    result = run(request, record)
    losses = {event["step"]: event["eval_loss"] for event in record.of("eval")}
    best = min(losses, key=losses.get)
    assert result.stopped_early
    assert result.steps == best + 10 < result.planned_steps
    assert result.eval_loss == pytest.approx(losses[best], abs=1e-6)
    assert verify_manifest(Path(result.adapter_dir))["step"] == best
    at_best = load_file(Path(request.out_dir) / "checkpoints" / f"step-{best}" / "adapter_model.safetensors")
    handed_out = load_file(Path(result.adapter_dir) / "adapter_model.safetensors")
    assert all(torch.equal(handed_out[name], at_best[name]) for name in at_best)


def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(make_request, recorder):
    record, request = recorder(), make_request(epochs=1, save_steps=2)
    run(request, record)
    saved = record.of("checkpoint")[0]["path"]
    other = make_request(epochs=1, save_steps=2, rank=8)
    with pytest.raises(SettingsError, match=r"recipe\.rank was 4 and is 8"):
        run(resumed(other, saved), recorder())
    with pytest.raises(SettingsError, match="seed was 11 and is 12"):
        run(resumed(request, saved, seed=12), recorder())


def test_other_data_than_the_checkpoint_s_is_refused(make_request, make_prepared, recorder, tiny_base):
    record, request = recorder(), make_request(epochs=1, save_steps=2)
    run(request, record)
    other = make_prepared(tiny_base, seed=5)
    with pytest.raises(SettingsError, match="data_sha256 was"):
        run(resumed(request, record.of("checkpoint")[0]["path"], prepared_dir=str(other)), recorder())


def test_a_torn_checkpoint_is_refused(make_request, recorder):
    record, request = recorder(), make_request(epochs=1, save_steps=2)
    run(request, record)
    saved = Path(record.of("checkpoint")[0]["path"])
    (saved / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(StorageError, match=r"optimizer\.pt"):
        run(resumed(request, saved), recorder())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the old name
def test_a_run_that_memory_forced_to_smaller_passes_goes_on_at_the_same_step(make_request, recorder):
    whole = recorder()
    settings = {"epochs": 2, "dropout": 0.0}
    run(make_request(out="whole", **settings), whole)
    first, request = recorder(stop_at(4)), make_request(out="drained", **settings)
    run(request, first)
    forced = Adjusted(micro_batch=1, gradient_checkpointing=True, why="too large")
    second = recorder()
    result = run(resumed(request, first.of("checkpoint")[0]["path"], adjusted=forced), second)
    assert [event["step"] for event in second.of("progress")] == list(range(5, 13))
    for one, other in zip(whole.of("progress")[4:], second.of("progress"), strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    recipe = result.resolved
    assert (recipe.micro_batch, recipe.accumulation, recipe.effective_batch) == (1, 4, 4)
    assert recipe.gradient_checkpointing
    assert recipe.rules["micro_batch"] == "1: too large"
    assert not result.exact
    (warning,) = result.warnings
    assert warning.startswith("Resumed at step 4, but not exact to the bit: accumulation 2 is now 4, gradient_check")
    assert warning.endswith("False is now True, micro_batch 2 is now 1.")


def test_another_machine_goes_on_by_itself_and_every_later_attempt_says_what_differed(
    make_request, recorder, monkeypatch
):
    from celora.tuning import device

    record, request = recorder(stop_at(1)), make_request(epochs=1)
    run(request, record)
    real, trl = device.versions("cpu"), device.versions("cpu")["trl"]
    monkeypatch.setattr(device, "versions", lambda _: {**real, "trl": "99", "device": "cpu of tomorrow"})
    monkeypatch.setattr(device, "name", lambda _: "cpu of tomorrow")
    monkeypatch.setattr(device, "compute_dtype", lambda _: "bfloat16")
    second = recorder(stop_at(2))
    run(resumed(request, record.of("checkpoint")[0]["path"]), second)
    (note,) = second.of("note")
    assert (note["level"], note["kind"]) == ("warning", "not_exact")
    changed = note["data"]["changed"]
    assert changed["trl"] == [trl, "99"]
    assert changed["compute_dtype"] == ["float32", "bfloat16"]
    assert changed["device"][1] == "cpu of tomorrow"
    assert note["message"].startswith("Resumed at step 1, but not exact to the bit: ")
    third = recorder()
    going_on = resumed(
        request, second.of("checkpoint")[0]["path"], resolved=ResolvedRecipe(**second.of("started")[0]["resolved"])
    )
    result = run(going_on, third)
    assert third.of("note") == []  # the same machine as the second attempt's
    assert not result.exact
    assert result.warnings == [note["message"]]


def test_an_8_bit_optimizer_that_loses_its_state_is_replaced_and_its_moments_begin_anew(
    make_request, recorder, monkeypatch
):
    from celora.tuning.training import optimizer_check

    record, request = recorder(stop_at(2)), make_request(epochs=1, optimizer="adamw")
    run(request, record)
    saved = record.of("checkpoint")[0]["path"]
    paged = {"resolved": request.resolved.model_copy(update={"optimizer": "paged_adamw_8bit"})}
    monkeypatch.setattr(optimizer_check, "paged_adamw_8bit", lambda parameters: 1 / 0)
    auto = request.model_copy(update={"recipe": request.recipe.model_copy(update={"optimizer": "paged_adamw_8bit"})})
    second = recorder()
    result = run(auto.model_copy(update=paged), second)
    assert result.resolved.optimizer == "adamw"
    assert "cannot be relied on here (ZeroDivisionError" in second.of("note")[0]["message"]
    manifest = Path(saved) / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["versions"]["optimizer"] = "paged_adamw_8bit"
    manifest.write_text(json.dumps(facts))
    (Path(saved) / "optimizer.pt").stat()
    third = recorder()
    assert run(resumed(request, saved), third) is not None
    assert "optimizer paged_adamw_8bit is now adamw" in third.of("note")[0]["message"]


def test_old_checkpoints_make_room_for_new_ones(make_request, recorder):
    record, request = recorder(), make_request(epochs=2, save_steps=2)
    run(request, record)
    assert [event["step"] for event in record.of("checkpoint")] == [2, 4, 6, 8, 10]
    kept = [step for step, _ in checkpoint.committed(Path(request.out_dir) / "checkpoints")]
    assert kept == [10, 8]
    assert record.of("checkpoint")[0]["size_bytes"] > 8192 * 4


def test_a_file_limit_in_mid_training_ends_as_a_full_disk_and_keeps_the_older_checkpoint(make_request, recorder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_files_after_step_2(_record, event, fields):
        if event == "checkpoint" and fields["step"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    record, request = recorder(limit_files_after_step_2), make_request(epochs=2, save_steps=1)
    root = Path(request.out_dir) / "checkpoints"
    try:
        with pytest.raises(DiskFullError) as caught:
            run(request, record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(root) in caught.value.message
    assert "needed" in caught.value.message
    assert len(record.of("note")) == 2
    assert checkpoint.committed(root)[0][0] == 2
    assert [path.name for path in root.iterdir() if path.name.startswith(".tmp")] == []


def test_out_of_memory_says_what_to_halve(make_request, recorder, monkeypatch):
    import torch

    from celora.tuning.training.engines import sft

    def no_memory(_model, _batch, _right):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(sft, "summed_loss", no_memory)
    with pytest.raises(OutOfMemoryError, match=r"micro_batch 2, max_length 64\): CUDA out of memory") as caught:
        run(make_request(), recorder())
    assert "Halve micro_batch and double accumulation" in caught.value.hint
    facts = caught.value.facts
    assert (facts["phase"], facts["step"], facts["micro_batch"], facts["accumulation"]) == ("training", 1, 2, 2)
    assert facts["total_bytes"] > facts["peak_bytes"] > 0


def test_a_device_that_fails_while_evaluating_says_so(make_request, recorder, monkeypatch):
    import torch

    from celora.tuning.training.engines import sft

    def broken(*_, **__):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors")

    monkeypatch.setattr(sft, "row_losses", broken)
    with pytest.raises(
        DeviceError, match="failed while evaluating: AcceleratorError: CUDA error: device-side"
    ) as caught:
        run(make_request(eval_steps=2), recorder())
    assert caught.value.facts["step"] == 2


def test_a_run_that_climbs_instead_of_descending_is_stopped_as_diverged(
    make_base, make_prepared, make_request, recorder, monkeypatch
):
    from transformers import LlamaConfig

    from celora.tuning.training.engines import sft

    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    base = make_base(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.1, pad_token_id=0, eos_token_id=1))
    real = sft.summed_loss

    def climbing(model, batch, _right):
        value = real(model, batch)
        return 2 * value.detach() - value

    monkeypatch.setattr(sft, "summed_loss", climbing)
    record, steps = recorder(), {"max_steps": 100, "eval_steps": 100, "micro_batch": 1, "accumulation": 1}
    request = make_request(base=base, prepared=make_prepared(base), learning_rate=0.05, **steps)
    with pytest.raises(DivergedError, match="The loss has run away: step"):
        run(request, record)
    assert 20 <= len(record.of("progress")) < 60


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_number_that_is_not_finite_stops_before_it_reaches_the_weights(make_request, recorder, monkeypatch, what):
    import torch

    from celora.tuning.adapters import lora
    from celora.tuning.training.engines import sft
    from celora.tuning.training.run import Run

    calls, real = [], sft.summed_loss

    def poisoned(model, batch, _right):
        calls.append(1)
        value = real(model, batch)
        if len(calls) == 9:  # the first pass of step 5
            value = value * float("nan") if what == "loss" else value + (value - value.detach()).abs().sqrt()
        return value  # the root of 0 is 0, and its slope is no number

    monkeypatch.setattr(sft, "summed_loss", poisoned)
    record, request = recorder(), make_request(save_steps=4)
    whole = Run(request, record, record.stop, Situation("cpu"))
    assert whole.begin()
    for _ in range(4):
        whole.advance()
    with pytest.raises(NonFiniteError, match=rf"The {what} is .* at step 5 of 12 \(learning rate 0\.003"):
        whole.advance()
    assert [event["step"] for event in record.of("progress")] == [1, 2, 3, 4]
    saved, now = Path(record.of("checkpoint")[0]["path"]), Path(request.out_dir) / "now"
    now.mkdir()
    whole.engine.write_adapter(now)
    at_4, at_end = lora.read_state(saved / lora.WEIGHTS), lora.read_state(now / lora.WEIGHTS)
    assert all(torch.equal(at_4[name], at_end[name]) for name in at_4)
    whole.close()


def test_a_run_that_fails_leaves_no_adapter(make_request, recorder, monkeypatch):
    from celora.tuning.training.engines import sft

    real = sft.summed_loss
    monkeypatch.setattr(sft, "summed_loss", lambda model, batch, _right: real(model, batch) * float("nan"))
    request = make_request()
    with pytest.raises(NonFiniteError):
        run(request, recorder())
    assert not (Path(request.out_dir) / "adapter").exists()


def test_a_target_list_that_does_not_fit_is_refused(make_request, recorder):
    with pytest.raises(SettingsError, match="names c_attn") as caught:
        run(make_request(target_modules=["q_proj", "c_attn"]), recorder())
    assert "down_proj, gate_proj, k_proj" in caught.value.hint


def test_a_recipe_with_auto_is_resolved_for_the_machine(make_request, recorder):
    from celora.tuning.device import compute_dtype

    request = make_request(max_steps=2).model_copy(update={"resolved": None})
    result = run(request, recorder())
    assert result.resolved.compute_dtype == compute_dtype("cpu")
    assert result.resolved.optimizer == "adamw"
    assert result.steps == 2
    shutil.rmtree(request.out_dir)
