"""Loads a base model for training: in NF4 from a stored copy, or unquantized; norms are in fp32.

Unusual, and why:

* The NF4 weights always come from a stored copy that is made on first use. Quantizing on load takes longer than
  reading the copy, and a job that resumes must load exactly the same weights.
* The set of unquantized layers depends on the model's shapes alone, never on the machine: a job may move between
  machines. The limits are those of the tightest 4-bit kernel (`layout.NF4_INPUTS`, `layout.NF4_OUTPUTS`).
* bitsandbytes' packed CPU kernel is turned off. On CPUs with AVX512-BF16 it repacks a layer in place at the first
  forward pass in evaluation: it computes in bf16 whatever the requested dtype is and rounds the scales to bf16 for
  good. Training after an evaluation would then run on other weights.
* Only norms are raised to fp32, and each norm returns the dtype of its input. `peft.prepare_model_for_kbit_training`
  raises every 16-bit weight, which doubles embedding and head.
"""

# pyright: basic
# (torch, transformers and bitsandbytes have no complete types)

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...errors import BadBaseError
from ...storage.manifest import MANIFEST
from ..protocol import Base, Emit
from .cache import QUANTIZED, stored
from .layout import fits_nf4
from .local_files import readable

NF4 = {"quant_type": "nf4", "double_quant": True, "block": 64, "format": 2}
"""Settings of a stored NF4 copy. ``format`` is raised when the same base gives another copy: 2 since a converted base
keeps the bits of F32 and F16, and the copy names its experts."""


def load(base: Base, folder: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit) -> PreTrainedModel:
    """Load the model of a folder unquantized, in the compute dtype."""
    emit("phase", phase=f"loading {base.name}", done=None, total=None)
    return _from_folder(folder, compute_dtype, device, code=code)


def load_nf4(
    base: Base, folder: Path, cache: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit
) -> tuple[PreTrainedModel, list[str]]:
    """Load the model with its linear layers in NF4 (double quantization); also return the unquantized weights' names.

    The size of an expert follows its name: bitsandbytes quantizes layers, and experts are tensors outside of layers.

    Args:
        base: The resolved base; its revision is a part of the copy's key.
        folder: The folder of the base's weights, the source of a missing copy.
        cache: The installation's cache.
        compute_dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        code: Whether the base's own code may run.
        emit: Receives an event when a copy is made, and when it is loaded.
    """
    copy = quantized_copy(base, folder, cache, compute_dtype=compute_dtype, device=device, code=code, emit=emit)
    unquantized: list[str] = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))["unquantized"]
    return load(base, copy, compute_dtype=compute_dtype, device=device, code=code, emit=emit), unquantized


def quantized_copy(
    base: Base, folder: Path, cache: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit
) -> Path:
    """Return the folder of the stored NF4 copy; one process at a time makes it on first use."""
    settings = {**NF4, "compute_dtype": compute_dtype}
    key = hashlib.sha256(json.dumps([base.name, base.revision, settings], sort_keys=True).encode()).hexdigest()[:32]

    def make(staged: Path) -> dict[str, Any]:
        emit("phase", phase=f"quantizing {base.name}", done=None, total=None)
        head, skipped, experts = _plan(folder, code=code)
        nf4 = _nf4(compute_dtype, [*head, *skipped])
        model = _from_folder(folder, compute_dtype, device, code=code, quantization=nf4)
        model.save_pretrained(staged)
        facts = {"name": base.name, "kind": base.kind, "revision": base.revision, "source": base.source}
        width = getattr(torch, compute_dtype).itemsize
        sized = [f"{name} ({numbers * width / 2**30:.3g} GiB)" for name, numbers in experts.items()]
        return {**facts, "settings": settings, "unquantized": [*skipped, *sized]}

    return stored(cache / QUANTIZED / key, make)


def empty_model(folder: Path, *, code: bool) -> Any:
    """Build the model of a folder's configuration, without weights.

    Raises:
        BaseModelError: transformers does not know the model.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(_config(folder, code=code), trust_remote_code=code)
    except (ValueError, KeyError, OSError, TypeError, AttributeError, ImportError) as error:
        raise _not_loaded(folder, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _plan(folder: Path, *, code: bool) -> tuple[list[str], list[str], dict[str, int]]:
    """Find, by the configuration alone, output head, layers that can't be quantized, and experts with their sizes."""
    model = empty_model(folder, code=code)
    head = model.get_output_embeddings()
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)
    }
    unfit = [name for name, module in layers.items() if module is not head and not fits_nf4(*_sides(module))]
    experts = {name: parameter.numel() for name, parameter in experts_of(model).items()}
    return [name for name, module in layers.items() if module is head], unfit, experts


def _sides(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """Return inputs and outputs of a layer; transformers' Conv1D (GPT-2) stores them in this order."""
    first, second = layer.weight.size()
    return (first, second) if isinstance(layer, Conv1D) else (second, first)


def experts_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the tensors of a mixture's experts; they lie outside of every layer that bitsandbytes quantizes."""
    of_layers = (nn.Linear, nn.Embedding, Conv1D, _ConvNd)
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in model.named_modules()
        if not isinstance(module, of_layers)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 2 or (parameter.ndim == 2 and ".experts" in prefix)  # noqa: PLR2004  (a matrix has 2)
    }


def _nf4(compute_dtype: str, kept: list[str]) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
        llm_int8_skip_modules=kept,
    )


def _config(folder: Path, *, code: bool) -> Any:
    with readable(folder / "config.json"):
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=code)


def _from_folder(
    folder: Path, compute_dtype: str, device: str, *, code: bool, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Load the weights of a folder; no other function loads weights."""
    options = {} if quantization is None else {"quantization_config": quantization}
    loader: Any = AutoModelForCausalLM
    try:
        model, loaded = loader.from_pretrained(
            str(folder),
            dtype=getattr(torch, compute_dtype),
            device_map={"": 0 if device == "cuda" else device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=code,
            output_loading_info=True,
            **options,
        )
    except (ValueError, KeyError, OSError, SafetensorError, TypeError, AttributeError) as error:
        raise _not_loaded(folder, (str(error).splitlines() or [type(error).__name__])[0]) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # other errors, such as a full device, are not the base's fault
            raise
        raise _not_loaded(folder, "its weights have other shapes than its config.json says") from error
    if loaded["missing_keys"]:  # transformers would fill these with noise
        raise _not_loaded(folder, f"its files lack the weights {', '.join(sorted(loaded['missing_keys'])[:3])}")
    _turn_off_packed_kernel(model)
    if compute_dtype != "float32":
        _norms_in_fp32(model)
    return model


def _not_loaded(folder: Path, reason: str) -> BadBaseError:
    return BadBaseError(
        f"the base model in {folder} can't be loaded: {reason}.",
        hint="Look whether its files are whole, and whether this version of transformers knows its model_type.",
    )


def _turn_off_packed_kernel(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Linear4bit):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (torch types attributes as tensors)


def _norms_in_fp32(model: nn.Module) -> None:
    """Raise norm weights to fp32; a norm's output keeps the dtype of its input, so that no other layer changes."""
    for module in model.modules():
        if "Norm" in type(module).__name__ and any(True for _ in module.parameters(recurse=False)):
            module.float()
            module.register_forward_hook(_same_dtype)


def _same_dtype(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype)
