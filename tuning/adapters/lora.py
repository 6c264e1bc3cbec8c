# pyright: basic
# (torch and PEFT ship incomplete types)
"""Attaches a LoRA adapter to a base, writes it and reads it back. Everything version-specific about PEFT is here.

Two things are unusual. Targets are resolved against the real model before PEFT sees them, so that a preset that fits
only in part is an error that names the existing layers (PEFT adapts the layers that it finds and reports no missing
ones). And the adapter trains in fp32 on every device: TRL casts an adapter to bf16 on a quantized base, which loses
small updates and is slow on a CPU without bf16. Autocast makes the products as cheap either way.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.transformers_weight_conversion import _MOE_TARGET_MODULE_MAPPING
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN
from transformers.pytorch_utils import Conv1D

from ...errors import SettingsError, TrainingError
from ..bases.quantize import empty_model, experts_of
from ..protocol import Base
from ..recipe import Recipe, ResolvedRecipe
from .targets import Targets, refused_by_peft, resolve_targets

WEIGHTS = "adapter_model.safetensors"


def linear_names(model: torch.nn.Module) -> list[str]:
    """Return the last name parts of the layers that LoRA can adapt, without the output head and PEFT's exclusions.

    PEFT reads some names on a mixture as transformers 4 used them: ``gate_proj`` then means the experts, also where
    shared experts or dense layers have a layer of that name. Such a layer can't be adapted.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
    family = _MODEL_TO_CONVERSION_PATTERN.get(model_type, model_type)
    refused = refused_by_peft(model_type) | _MOE_TARGET_MODULE_MAPPING.get(family, {}).keys()
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return sorted(found - refused)


def expert_names(model: torch.nn.Module) -> list[str]:
    """Return the last two name parts of the experts' tensors that LoRA can adapt: ``experts.gate_up_proj``."""
    matrices = [name for name, parameter in experts_of(model).items() if parameter.ndim == 3]  # noqa: PLR2004
    return sorted({".".join(name.rsplit(".", 2)[-2:]) for name in matrices})


def attach(model: Any, recipe: ResolvedRecipe, base: Base, *, seed: int) -> PeftModel:
    """Attach a fresh fp32 adapter to a frozen base. The adapter's random start depends on the seed alone.

    Raises:
        SettingsError: The target modules do not fit the model.
    """
    peft_model = _adapted(model, recipe, seed)
    active = peft_model.peft_config["default"]
    active.base_model_name_or_path = base.name
    active.revision = base.revision if base.kind == "hub" else None
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft_model


def try_targets(recipe: Recipe, folder: Path, *, code: bool) -> Targets:
    """Attach an adapter to a base without its weights, to find any setting that PEFT or the model refuses.

    Returns the names of the layers and experts that the recipe adapts.

    Args:
        recipe: The recipe as a caller gave it.
        folder: The base's folder; only the configuration in it is read.
        code: Whether the base's own code may run.

    Raises:
        SettingsError: The target modules do not fit the model.
        BaseModelError: transformers does not know the model.
    """
    model = empty_model(folder, code=code)
    targets = targets_of(model, recipe)
    _adapted(model, recipe, seed=0)
    return targets


def targets_of(model: Any, recipe: Recipe) -> Targets:
    """Return the names of the layers and experts that a recipe adapts in a model.

    Raises:
        SettingsError: The target modules do not fit the model, or the recipe's other settings do not fit experts.
    """
    targets = resolve_targets(recipe.target_modules, linear_names(model), expert_names(model))
    if targets.experts and (recipe.dropout or recipe.dora):
        raise SettingsError(
            f"target_modules: the experts of this base ({', '.join(targets.experts)}) are tensors outside of layers, "
            "which PEFT adapts without dropout and without DoRA.",
            hint="Set dropout to 0 and dora to false; or name layers alone: "
            f"target_modules = {', '.join(linear_names(model))}.",
        )
    return targets


def _adapted(model: Any, recipe: Recipe, seed: int) -> PeftModel:
    targets = targets_of(model, recipe)
    alpha = int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (a fraction is fine: only alpha / r is used)
        lora_dropout=recipe.dropout,
        target_modules=targets.layers,
        target_parameters=targets.experts or None,
        use_dora=recipe.dora,
        use_rslora=recipe.rslora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # PEFT corrects it for Conv1D
        try:
            peft_model = get_peft_model(model, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise SettingsError(
                f"target_modules: PEFT refuses {', '.join(targets.names)} on this base: {str(error).splitlines()[0]}",
                hint="Name other modules, or set target_modules to all-linear.",
            ) from error
    assert isinstance(peft_model, PeftModel)  # noqa: S101  (a mixed model only comes when it is asked for)
    return peft_model


def state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return a copy of the adapter in host memory, under the names of its file."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def restore(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Load a state into the adapter.

    Raises:
        TrainingError: The state belongs to another adapter (names or shapes differ).
    """
    current = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {name: tensor.shape for name, tensor in current.items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise TrainingError("The saved adapter has other layers or another rank than the one in training.")
    set_peft_model_state_dict(model, tensors)


def write_state(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write an adapter state as one safetensors file."""
    save_file(tensors, path, metadata={"format": "pt"})


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the file of ``write_state`` into host memory."""
    return load_file(path)


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as PEFT's own folder (safetensors and adapter_config.json), read it back and check it.

    Raises:
        TrainingError: The file does not hold exactly this adapter, or not only finite numbers.
    """
    # the reference of preference training is an adapter of the model too, and would be written beside ours
    model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; publish writes the real one
    written, trained = load_file(folder / WEIGHTS), state(model)
    if written.keys() != trained.keys() or not all(torch.equal(written[name], trained[name]) for name in trained):
        raise TrainingError(f"{folder / WEIGHTS} does not hold the adapter that was trained.")
    bad = sorted(name for name, tensor in written.items() if not torch.isfinite(tensor).all())
    if bad:
        raise TrainingError(f"The trained adapter has numbers that are not finite, first in {bad[0]}.")
