"""Resolves the presets and names of ``target_modules`` against the layers and experts that a base has. No torch.

The experts of a mixture lie in tensors outside of layers (``experts.gate_up_proj``, all experts of a layer together).
PEFT adapts such a tensor by its name (``target_parameters``), without dropout and without DoRA.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import SettingsError
from ..recipe import TARGET_PRESETS

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Fused layer of each projection, for families that fuse projections (Phi-3)."""

EXPERTS = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
"""Tensor of the experts that holds each projection of a preset."""

_MAMBA = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})


def refused_by_peft(model_type: str) -> frozenset[str]:
    """Return the layer names that PEFT refuses on a model type (``_check_lora_target_modules_mamba``, PEFT 0.21)."""
    return frozenset({"out_proj", "conv1d"}) if model_type in _MAMBA else frozenset()


@dataclass(frozen=True, slots=True)
class Targets:
    """Holds the names that a recipe adapts.

    Attributes:
        layers: Last parts of the names of layers; PEFT's ``target_modules``.
        experts: Last two parts of the names of experts' tensors; PEFT's ``target_parameters``.
    """

    layers: list[str]
    experts: list[str]

    @property
    def names(self) -> list[str]:
        """Return all names."""
        return [*self.layers, *self.experts]


def resolve_targets(wanted: str | list[str], existing: Iterable[str], experts: Iterable[str] = ()) -> Targets:
    """Return the names of the layers and experts to adapt in a model that has the ``existing`` ones.

    Args:
        wanted: A preset of ``TARGET_PRESETS``, or names of layers and experts in the model.
        existing: The result of ``linear_names``.
        experts: The result of ``expert_names``.

    Raises:
        SettingsError: A name of the preset or list is not in the model.

    Example:
        ``"full"`` on Phi-3 gives down_proj, gate_up_proj, o_proj and qkv_proj; on Qwen3-MoE the attention's four and
        experts.down_proj and experts.gate_up_proj.
    """
    have, tensors = sorted(existing), sorted(experts)
    if wanted == "all-linear":
        return Targets(have, [])
    names = [_in_model(name, have, tensors) for name in TARGET_PRESETS[wanted]] if isinstance(wanted, str) else wanted
    missing = sorted({name for name in names if name not in have and name not in tensors})
    if missing:
        what = f"preset {wanted!r}" if isinstance(wanted, str) else "list"
        raise SettingsError(
            f"target_modules: the {what} names {', '.join(missing)}, which this base model does not have as a layer "
            "that can be adapted.",
            hint=f"It has {', '.join([*have, *tensors]) or 'none'}: set target_modules to some of these, or to "
            "all-linear.",
        )
    return Targets(sorted(set(names) & set(have)), sorted(set(names) & set(tensors)))


def _in_model(name: str, layers: list[str], experts: list[str]) -> str:
    """Return the model's own name of a preset's layer: itself, the fused layer, or the tensor of the experts."""
    if name in layers:
        return name
    if FUSED.get(name) in layers:
        return FUSED[name]
    return next((tensor for tensor in experts if tensor.endswith(f".{EXPERTS.get(name)}")), name)
