# pyright: basic
# (torch and PEFT ship incomplete types)
"""Everything version-specific about PEFT: which layers an adapter changes, how it is attached, written and read back.

Two things are unusual. Targets are resolved against the real model before PEFT sees them, so that a preset that fits
only in part is an error that names what exists (PEFT adapts what it finds and stays silent about the rest). And the
adapter trains in fp32 on every device: TRL casts it to bf16 on a quantized base, which loses small updates and is slow
on a CPU without bf16; autocast makes the products as cheap either way.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from ..settings.errors import SettingsError, TrainingError
from .protocol import Base
from .recipe import TARGET_PRESETS, ResolvedRecipe

WEIGHTS = "adapter_model.safetensors"

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Where a family fuses projections (Phi-3), the layer that holds the named one."""


def linear_names(model: torch.nn.Module) -> list[str]:
    """Last name parts of the layers that LoRA can adapt, the output head left out."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return sorted(found)


def resolve_targets(wanted: str | list[str], existing: Iterable[str]) -> list[str]:
    """Names of the layers to adapt in a model that has the ``existing`` ones.

    Args:
        wanted: A preset of ``TARGET_PRESETS``, or names as they stand in the model.
        existing: What ``linear_names`` found.

    Raises:
        SettingsError: A name of the preset or list is not in the model.

    Example:
        ``"full"`` on Phi-3 gives down_proj, gate_up_proj, o_proj and qkv_proj.
    """
    have = sorted(existing)
    if wanted == "all-linear":
        return have
    if isinstance(wanted, str):
        names = [
            FUSED[name] if name not in have and FUSED.get(name) in have else name for name in TARGET_PRESETS[wanted]
        ]
    else:
        names = list(wanted)
    missing = sorted({name for name in names if name not in have})
    if missing:
        what = f"preset {wanted!r}" if isinstance(wanted, str) else "list"
        raise SettingsError(
            f"target_modules: the {what} names {', '.join(missing)}, which this base model does not have as a layer "
            "that can be adapted.",
            hint=f"It has {', '.join(have) or 'none'}: set target_modules to some of these, or to all-linear.",
        )
    return sorted(set(names))


def attach(model: Any, recipe: ResolvedRecipe, base: Base, *, seed: int) -> PeftModel:
    """A fresh fp32 adapter on a frozen base; its random start depends on the seed alone.

    Raises:
        SettingsError: The target modules do not fit the model.
    """
    targets = resolve_targets(recipe.target_modules, linear_names(model))
    alpha = int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (a fraction is fine: only alpha / r is used)
        lora_dropout=recipe.dropout,
        target_modules=targets,
        use_dora=recipe.dora,
        use_rslora=recipe.rslora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        peft_model = get_peft_model(model, config)
    assert isinstance(peft_model, PeftModel)  # noqa: S101  (a mixed model only comes when it is asked for)
    active = peft_model.peft_config["default"]
    active.base_model_name_or_path = base.name
    active.revision = base.revision if base.kind == "hub" else None
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft_model


def state(model: PeftModel) -> dict[str, torch.Tensor]:
    """A copy of the adapter in host memory, under the names that its file has."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def restore(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put a state back.

    Raises:
        TrainingError: The state is not this adapter's (names or shapes differ).
    """
    current = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {name: tensor.shape for name, tensor in current.items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise TrainingError("The saved adapter has other layers or another rank than the one in training.")
    set_peft_model_state_dict(model, tensors)


def write_state(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """An adapter state as one safetensors file."""
    save_file(tensors, path, metadata={"format": "pt"})


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """What ``write_state`` wrote, in host memory."""
    return load_file(path)


def write_adapter(model: PeftModel, folder: Path) -> None:
    """The adapter as PEFT's own folder (safetensors and adapter_config.json), read back and checked.

    Raises:
        TrainingError: The file does not hold exactly this adapter, or not only finite numbers.
    """
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; publish writes the real one
    written, trained = load_file(folder / WEIGHTS), state(model)
    if written.keys() != trained.keys() or not all(torch.equal(written[name], trained[name]) for name in trained):
        raise TrainingError(f"{folder / WEIGHTS} does not hold the adapter that was trained.")
    bad = sorted(name for name, tensor in written.items() if not torch.isfinite(tensor).all())
    if bad:
        raise TrainingError(f"The trained adapter has numbers that are not finite, first in {bad[0]}.")
