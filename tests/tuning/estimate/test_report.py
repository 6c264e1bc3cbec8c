import numpy as np
import pytest

from celora.tuning.estimate import report
from celora.tuning.estimate.memory import GIB, memory_bytes
from celora.tuning.estimate.resolve import resolve_recipe
from celora.tuning.protocol import DeviceType
from celora.tuning.recipe import Recipe, planned_steps

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
PARAMETERS_8B = 8_030_261_248
CPU = DeviceType(name="cpu", kind="cpu", memory_bytes=64 * GIB, flops_per_s=1e11, price_per_hour=0.05)


def gpu(name, memory_gib, price=1.0):
    return DeviceType(
        name=name, kind="cuda", memory_bytes=memory_gib * GIB, flops_per_s=3e14, bandwidth_bytes_per_s=1e12,
        price_per_hour=price,
    )  # fmt: skip


def work(*, lengths=None, held_out=True, **recipe):
    lengths = np.random.default_rng(0).integers(100, 1000, 400) if lengths is None else np.array(lengths)
    sets = {"eval": np.full(40, 300)} if held_out else {}
    return report.Work(
        recipe=Recipe(**recipe),
        parameters=PARAMETERS_8B,
        model_config=LLAMA_8B,
        max_length=2048,
        lengths=lengths,
        trained_tokens=int(lengths.sum() // 2),
        held_out=sets,
        answers={name: rows // 3 for name, rows in sets.items()},
        seed=0,
        eval_max_rows=200,
        eval_max_new_tokens=256,
    )


def only(work, device):
    (row,) = report.estimate(work, [device])["devices"]
    return row


def test_a_row_of_the_table_is_what_a_run_on_that_device_would_decide():
    given, device = work(), gpu("h100", 80)
    row = only(given, device)
    recipe = resolve_recipe(
        given.recipe, parameters=PARAMETERS_8B, model_config=LLAMA_8B, train_rows=400,
        train_tokens=int(given.lengths.sum()), max_length=2048, device="cuda", device_memory_bytes=device.memory_bytes,
        compute_dtype="bfloat16", longest_row_tokens=int(given.lengths.max()),
    )  # fmt: skip
    assert (row["micro_batch"], row["accumulation"], row["gradient_checkpointing"]) == (
        recipe.micro_batch,
        recipe.accumulation,
        recipe.gradient_checkpointing,
    )
    parts = row["memory_bytes"]
    assert parts["total"] == memory_bytes(
        recipe, parameters=PARAMETERS_8B, model_config=LLAMA_8B, length=int(given.lengths.max())
    )
    named = ("weights", "adapter", "optimizer", "activations", "logits", "work", "overhead")
    assert sum(parts[part] for part in named) == parts["total"]
    assert parts["room"] == int(80 * GIB * 0.9)
    assert row["fits"]
    assert row["would_fit_with"] is None


def test_money_is_time_by_the_price_for_training_and_evaluation_apart():
    cheap, dear = only(work(), gpu("a", 80)), only(work(), gpu("a", 80, price=3.0))
    for stage in ("train", "evaluate"):
        assert cheap[f"{stage}_s"] > 0
        assert cheap[f"{stage}_cost"] == pytest.approx(cheap[f"{stage}_s"] / 3600, abs=2e-5)
        assert dear[f"{stage}_cost"] == pytest.approx(3 * cheap[f"{stage}_cost"], abs=2e-6)


def test_without_held_out_rows_nothing_is_evaluated():
    with_rows, without = only(work(), gpu("a", 80)), only(work(held_out=False), gpu("a", 80))
    assert without["evaluate_s"] == 0
    assert without["train_s"] < with_rows["train_s"]


def test_twice_the_epochs_take_twice_the_time():
    times = [
        only(work(epochs=epochs, effective_batch=16, held_out=False), gpu("a", 80))["train_s"] for epochs in (1, 2)
    ]
    assert times[1] == pytest.approx(2 * times[0], rel=0.01)
    steps = only(work(max_steps=10, held_out=False), gpu("a", 80))["train_s"]
    assert steps == pytest.approx(times[0] * 10 / 25, rel=0.01)


@pytest.mark.parametrize(
    ("memory_gib", "recipe", "changes"),
    [
        (16, {"quantization": "none"}, {"quantization"}),
        (16, {"micro_batch": 8}, {"micro_batch", "effective_batch"}),
        (12, {"gradient_checkpointing": False, "micro_batch": 1}, {"gradient_checkpointing"}),
        (16, {"quantization": "none", "micro_batch": 8, "gradient_checkpointing": False}, None),
    ],
)
def test_where_it_does_not_fit_the_fewest_changes_that_help_are_named(memory_gib, recipe, changes):
    given = work(lengths=[900] * 50, **recipe)
    row = only(given, gpu("small", memory_gib))
    assert not row["fits"]
    remedy = row["would_fit_with"]
    assert changes is None or set(remedy) == changes
    fitted = only(work(lengths=[900] * 50, **(recipe | remedy)), gpu("small", memory_gib))
    assert fitted["fits"], remedy


def test_a_shorter_length_is_the_last_resort_and_says_how_many_rows_it_cuts():
    lengths = [2048] * 3 + [200] * 97
    row = only(work(lengths=lengths, micro_batch=1, gradient_checkpointing=True), gpu("small", 10))
    assert row["would_fit_with"] == {"max_length": 1024, "rows_cut": 3}
    row = only(work(lengths=lengths), gpu("tiny", 4))
    assert (row["fits"], row["would_fit_with"]) == (False, None)


def test_the_epoch_says_what_there_is_to_do():
    given = work(lengths=[100] * 30 + [200] * 10, micro_batch=2, accumulation=2, epochs=2)
    epoch = report.estimate(given, [])["epoch"]
    assert epoch == {
        "examples": 40,
        "sequences": 40,
        "tokens": 5000,
        "trained_tokens": 2500,
        "useful": epoch["useful"],
        "effective_batch": 4,
        "steps": 10,
        "epochs": 2,
        "planned_steps": 20,
    }
    assert 0.75 < epoch["useful"] <= 1


def test_packing_says_how_full_its_sequences_are_and_is_used_where_it_is_on():
    lengths = [1024] * 10 + [512] * 20
    off, on = (report.estimate(work(lengths=lengths, packing=packing), []) for packing in (False, True))
    for found in (off, on):
        assert (found["packing"]["sequences"], found["packing"]["full"]) == (10, 1.0)
    assert (off["epoch"]["sequences"], on["epoch"]["sequences"]) == (30, 10)
    assert on["epoch"]["useful"] == 1.0


def test_activations_are_told_by_length_and_micro_batch_with_and_without_checkpointing():
    found = report.estimate(work(lengths=[100] * 99 + [700]), [])["activations"]
    assert sorted({row["length"] for row in found}) == [100, 700, 2048]
    assert {row["micro_batch"] for row in found} == {1, 2, 4, 8, 16}
    one = next(row for row in found if (row["length"], row["micro_batch"]) == (700, 1))
    four = next(row for row in found if (row["length"], row["micro_batch"]) == (700, 4))
    assert four["bytes"] == 4 * one["bytes"]
    assert one["bytes_with_checkpointing"] < one["bytes"] / 10


def test_gpu_types_are_unproven_and_say_what_they_are_based_on():
    row, cpu = only(work(), gpu("h100", 80)), only(work(), CPU)
    assert (row["proven"], cpu["proven"]) == (False, True)
    assert row["basis"].startswith("38% of the data sheet's 300 TFLOP/s; unproven")
    assert cpu["basis"].startswith("50% of the 100 GFLOP/s that fp32 matrix products reach")


def test_a_cpu_without_a_rate_is_measured():
    given = work(lengths=[100] * 16, held_out=False)
    measured = only(given, CPU.model_copy(update={"flops_per_s": 0.0}))
    assert measured["train_s"] > 0
    assert "GFLOP/s that fp32 matrix products reach" in measured["basis"]


def test_the_planned_steps_are_the_runs():
    given = work(epochs=1.5)
    epoch = report.estimate(given, [])["epoch"]
    recipe = report._Run(given, given.lengths, np.arange(400)).resolved(gpu("a", 80))
    assert epoch["planned_steps"] == planned_steps(400, recipe)
