"""Bad adapters, each planted in a copy of a good one, and the check that catches it."""

import json
import math
import shutil

import pytest

from celora.errors import VerificationError
from celora.storage.manifest import MANIFEST, write_manifest
from celora.tuning.adapters.package import CONFIG, WEIGHTS

RANK = 4


@pytest.fixture(scope="module")
def recipe():
    from celora.tuning.recipe import ResolvedRecipe

    return ResolvedRecipe(
        rank=RANK, alpha=8, dropout=0, quantization="none", micro_batch=2, accumulation=1, effective_batch=2,
        learning_rate=1e-3, max_length=64, gradient_checkpointing=False, optimizer="adamw", compute_dtype="float32",
    )  # fmt: skip


def load_base(base, tmp):
    from celora.tuning.bases.base import load_model
    from celora.tuning.protocol import HubAccess

    return load_model(
        base, tmp / "cache", HubAccess(offline=True), quantization="none", compute_dtype="float32", device="cpu",
        emit=lambda *_, **__: None,
    )[0]  # fmt: skip


def held_out(prepared):
    from celora.tuning.batches.prepared_set import PreparedSet

    return PreparedSet.load(prepared, "eval")


@pytest.fixture(scope="module")
def good(tiny_base, tiny_prepared, recipe, tmp_path_factory):
    """A good adapter's folder and the loss that its trainer measured."""
    import torch

    from celora.tuning.adapters import lora
    from celora.tuning.batches.row_losses import row_losses

    folder = tmp_path_factory.mktemp("adapter")
    model = lora.attach(load_base(tiny_base, tmp_path_factory.getbasetemp()), recipe, tiny_base, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    lora.write_adapter(model, folder)
    write_manifest(folder)
    return folder, row_losses(model, held_out(tiny_prepared), batch_rows=2, pad_id=0, device="cpu").mean


@pytest.fixture
def check(good, tiny_base, tiny_prepared, recipe, tmp_path):
    """Run every check on a folder, as the evaluate stage does; returns the verification."""
    import torch

    from celora.tuning.batches.row_losses import row_losses
    from celora.tuning.evaluation.verification import Verification, largest_change

    def run(folder, *, base=tiny_base, trainers=good[1], recipe=recipe):
        verification = Verification(folder, base, recipe)
        verification.files()
        model = load_base(tiny_base, tmp_path)
        verification.layers(model)
        peft_model = verification.load(model)
        rows = row_losses(peft_model.get_base_model(), held_out(tiny_prepared), batch_rows=2, pad_id=0, device="cpu")
        verification.loss(rows.mean, trainers, compute_dtype="float32")
        ids = torch.tensor([[5, 6, 7]])
        verification.effect(largest_change(peft_model, lambda: peft_model.get_base_model()(input_ids=ids).logits))
        return verification

    return run


@pytest.fixture
def plant(good, tmp_path):
    """A copy of the good adapter with one thing wrong; its manifest fits, so that the deeper check has to find it."""
    from safetensors.torch import load_file, save_file

    def make(*, tensors=None, config=None, file=None, sign=True):
        folder = tmp_path / "planted"
        shutil.copytree(good[0], folder)
        if tensors:
            weights = load_file(folder / WEIGHTS)
            tensors(weights)
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
        if config:
            settings = json.loads((folder / CONFIG).read_text())
            config(settings)
            (folder / CONFIG).write_text(json.dumps(settings))
        if file:
            file(folder)
        if sign:
            (folder / MANIFEST).unlink()
            write_manifest(folder)
        return folder

    return make


def caught(check, folder, name, *words, **kwargs):
    with pytest.raises(VerificationError) as error:
        check(folder, **kwargs)
    assert f"check '{name}'" in error.value.message
    for word in words:
        assert word in error.value.message


def name_of(weights, layer, part):
    return next(name for name in weights if f"layers.{layer}.self_attn.q_proj.{part}" in name)


def test_a_good_adapter_passes_every_check(check, good):
    checks = check(good[0]).checks
    assert [each["name"] for each in checks] == [
        "files", "manifest", "config", "targets", "layers", "finite", "delta", "loads", "loss", "effect",
    ]  # fmt: skip
    assert all(each["ok"] and each["detail"] for each in checks)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite(check, plant, value):
    def spoil(weights):
        weights[name_of(weights, 1, "lora_B")][3, 1] = value

    caught(check, plant(tensors=spoil), "finite", "layers.1.self_attn.q_proj.lora_B")


def test_a_delta_of_zero(check, plant):
    def spoil(weights):
        for name, tensor in weights.items():
            if "lora_B" in name:
                tensor.zero_()

    caught(check, plant(tensors=spoil), "delta")


def test_one_layer_of_zero_is_found_by_the_loss_and_named_in_a_warning(check, plant):
    def spoil(weights):
        weights[name_of(weights, 0, "lora_B")].zero_()

    folder = plant(tensors=spoil)
    caught(check, folder, "loss")
    found = check(folder, trainers=None)  # a job without held-out rows: the other checks hold
    assert "layers.0.self_attn.q_proj" in found.warnings[0]


def test_wrong_keys(check, plant):
    def spoil(weights):
        for name in list(weights):
            weights[name.replace("base_model.model.", "")] = weights.pop(name)

    caught(check, plant(tensors=spoil), "layers", "missing")


def test_a_missing_layer(check, plant):
    def spoil(weights):
        del weights[name_of(weights, 1, "lora_A")], weights[name_of(weights, 1, "lora_B")]

    caught(check, plant(tensors=spoil), "layers", "missing: base_model.model.model.layers.1.self_attn.q_proj.lora_A")


def test_a_layer_too_many(check, plant):
    def spoil(weights):
        weights["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = weights[
            name_of(weights, 1, "lora_A")
        ].clone()

    caught(check, plant(tensors=spoil), "layers", "not asked for: base_model.model.model.layers.9")


def test_an_adapter_of_a_base_with_another_width(check, plant):
    import torch

    def spoil(weights):
        for name, tensor in weights.items():
            if "lora_A" in name:
                weights[name] = torch.nn.functional.pad(tensor, (0, 32))

    caught(check, plant(tensors=spoil), "layers", "of another shape")


def test_weights_of_another_rank_than_the_configuration(check, plant):
    def spoil(weights):
        for name, tensor in weights.items():
            weights[name] = tensor[:2] if "lora_A" in name else tensor[:, :2]

    caught(check, plant(tensors=spoil), "layers", "(2, 64) in place of (4, 64)")


def test_a_truncated_file(check, plant):
    def spoil(folder):
        whole = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(whole[:-100])

    caught(check, plant(file=spoil), "files", "no whole safetensors file")


def test_a_and_b_swapped_where_the_shapes_allow_it(check, plant):
    def spoil(weights):
        a, b = name_of(weights, 0, "lora_A"), name_of(weights, 0, "lora_B")
        weights[a], weights[b] = weights[b].T, weights[a].T

    caught(check, plant(tensors=spoil), "loss", "in the trainer")


def test_two_layers_swapped(check, plant):
    def spoil(weights):
        first, second = name_of(weights, 0, "lora_B"), name_of(weights, 1, "lora_B")
        weights[first], weights[second] = weights[second], weights[first]

    caught(check, plant(tensors=spoil), "loss")


def test_one_scaled_tensor(check, plant):
    def spoil(weights):
        weights[name_of(weights, 1, "lora_B")] *= 3

    caught(check, plant(tensors=spoil), "loss")


def test_a_pickle_beside_the_weights(check, plant):
    import torch

    folder = plant(file=lambda folder: torch.save({}, folder / "adapter_model.bin"))
    caught(check, folder, "files", "adapter_model.bin")


def test_a_pickle_under_the_name_of_the_weights(check, plant):
    import torch

    caught(check, plant(file=lambda folder: torch.save({}, folder / WEIGHTS)), "files", "no whole safetensors file")


def test_no_weights_at_all(check, plant):
    caught(check, plant(file=lambda folder: (folder / WEIGHTS).unlink()), "files", f"it lacks {WEIGHTS}")


def test_an_empty_configuration(check, plant):
    caught(check, plant(file=lambda folder: (folder / CONFIG).write_text("{}")), "config", "peft_type is None")


def test_a_configuration_that_is_no_json(check, plant):
    caught(check, plant(file=lambda folder: (folder / CONFIG).write_text("")), "config", "can't be read")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lora_alpha", 16, "lora_alpha is 16, not 8.0"),
        ("r", 8, "r is 8, not 4"),
        ("base_model_name_or_path", "someone/else", "someone/else"),
        ("use_rslora", True, "use_rslora"),
        ("use_dora", True, "use_dora"),
        ("bias", "all", "bias"),
        ("alpha_pattern", {"q_proj": 99}, "alpha_pattern"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("target_modules", "all-linear", "target_modules"),
    ],
)
def test_a_configuration_other_than_asked_for(check, plant, field, value, words):
    caught(check, plant(config=lambda config: config.update({field: value})), "config", words)


def test_other_targets_than_asked_for(check, plant):
    folder = plant(config=lambda config: config["target_modules"].remove("q_proj"))
    caught(check, folder, "targets", "missing: q_proj")


def test_a_file_that_changed_since_it_was_written(check, plant):
    def spoil(weights):
        weights[name_of(weights, 1, "lora_B")] *= 1.000001

    caught(check, plant(tensors=spoil, sign=False), "manifest", "another")


def test_a_folder_that_was_never_committed(check, plant):
    folder = plant()
    (folder / MANIFEST).unlink()
    caught(check, folder, "manifest", "never finished")


def test_a_manifest_that_leaves_the_weights_out(check, plant):
    folder = plant()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["name"] != WEIGHTS]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    caught(check, folder, "manifest", f"does not name {WEIGHTS}")


def test_a_folder_that_is_not_there(check, tmp_path):
    caught(check, tmp_path / "nowhere", "files", "there is no folder")


def test_an_adapter_stored_in_half_precision_is_still_a_good_one(check, plant):
    def halve(weights):
        for name, tensor in weights.items():
            weights[name] = tensor.half()

    assert check(plant(tensors=halve)).checks[-1]["ok"]


def test_a_loss_that_is_not_a_number(good, tiny_base, recipe):
    from celora.tuning.evaluation.verification import Verification

    with pytest.raises(VerificationError, match="check 'loss'"):
        Verification(good[0], tiny_base, recipe).loss(math.nan, 1.0, compute_dtype="float32")


@pytest.mark.parametrize("change", [0.0, math.nan])
def test_logits_that_stay_the_same(good, tiny_base, recipe, change):
    from celora.tuning.evaluation.verification import Verification

    with pytest.raises(VerificationError, match="check 'effect'"):
        Verification(good[0], tiny_base, recipe).effect(change)


@pytest.mark.parametrize(
    ("dtypes", "allowed", "refused"),
    [
        (("float32", "float32"), 1e-5, 1e-4),
        (("bfloat16", "bfloat16"), 1e-3, 1e-2),
        (("bfloat16", "float32"), 1e-2, 1e-1),
    ],
)
def test_the_loss_may_differ_by_what_rounding_does_and_no_more(  # noqa: PLR0917  (fixtures and one table)
    good, tiny_base, recipe, dtypes, allowed, refused
):
    from celora.tuning.evaluation.verification import Verification

    trained_in, evaluated_in = dtypes
    verification = Verification(good[0], tiny_base, recipe.model_copy(update={"compute_dtype": trained_in}))
    verification.loss(1.0 + allowed, 1.0, compute_dtype=evaluated_in)
    assert verification.checks[-1]["ok"]
    with pytest.raises(VerificationError, match="check 'loss'"):
        verification.loss(1.0 + refused, 1.0, compute_dtype=evaluated_in)
