"""Loading a base model for training: NF4 from a stored copy, or as it is; norms in fp32.

Unusual, and why:

* The NF4 weights always come from a stored copy that is made on first use. Quantizing on load takes longer than
  reading the copy, and a job that resumes must meet the very same weights.
* Which layers stay unquantized depends on the model's shapes alone, never on the machine: a job may move between
  machines. The limits are those of the tightest 4-bit kernel (`NF4_INPUTS`, `NF4_OUTPUTS`).
* bitsandbytes' packed CPU kernel is turned off. On CPUs with AVX512-BF16 it repacks a layer in place at the first
  forward pass in evaluation: it computes in bf16 whatever dtype was asked for, rounds the scales to bf16 for good, and
  training after an evaluation would run on these other weights.
* Norms alone are raised to fp32, and hand back the dtype they were given. `peft.prepare_model_for_kbit_training`
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
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ..settings.errors import BaseModelError
from ..storage.manifest import MANIFEST
from .cache import QUANTIZED, stored
from .protocol import Base, Emit

NF4_INPUTS = 64
"""Inputs of a 4-bit layer come in whole quantization blocks of 64: else blocks span rows, which the fused kernels of
bitsandbytes 0.50 refuse."""
NF4_OUTPUTS = 32
"""Outputs come in whole tiles of 32 (the packed CPU kernel: "N must be divisible by block_n")."""
NF4 = {"quant_type": "nf4", "double_quant": True, "block": 64, "format": 1}


def load(base: Base, folder: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit) -> PreTrainedModel:
    """The model as its folder holds it, in the compute dtype."""
    emit("phase", phase=f"loading {base.name}", done=None, total=None)
    return _from_folder(folder, compute_dtype, device, code=code)


def load_nf4(
    base: Base, folder: Path, cache: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit
) -> tuple[PreTrainedModel, list[str]]:
    """The model with its linear layers in NF4 (double quantization), and the names of those that are not.

    Args:
        base: The resolved base; its revision is a part of the copy's key.
        folder: Its weights, in case the copy has to be made.
        cache: The installation's cache.
        compute_dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        code: Whether the base's own code may run.
        emit: Told when a copy is made, and when it is loaded.
    """
    copy = quantized_copy(base, folder, cache, compute_dtype=compute_dtype, device=device, code=code, emit=emit)
    unquantized: list[str] = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))["unquantized"]
    return load(base, copy, compute_dtype=compute_dtype, device=device, code=code, emit=emit), unquantized


def quantized_copy(
    base: Base, folder: Path, cache: Path, *, compute_dtype: str, device: str, code: bool, emit: Emit
) -> Path:
    """The folder of the stored NF4 copy; made on first use, by one process at a time."""
    settings = {**NF4, "compute_dtype": compute_dtype}
    key = hashlib.sha256(json.dumps([base.name, base.revision, settings], sort_keys=True).encode()).hexdigest()[:32]

    def make(staged: Path) -> dict[str, Any]:
        emit("phase", phase=f"quantizing {base.name}", done=None, total=None)
        head, skipped = _plan(folder, code=code)
        nf4 = _nf4(compute_dtype, [*head, *skipped])
        model = _from_folder(folder, compute_dtype, device, code=code, quantization=nf4)
        model.save_pretrained(staged)
        facts = {"name": base.name, "kind": base.kind, "revision": base.revision, "source": base.source}
        return {**facts, "settings": settings, "unquantized": skipped}

    return stored(cache / QUANTIZED / key, make)


def unquantizable(folder: Path, *, code: bool = False) -> list[str]:
    """Names of the linear layers, the output head apart, whose shapes the 4-bit kernels can't take."""
    return _plan(folder, code=code)[1]


def _plan(folder: Path, *, code: bool) -> tuple[list[str], list[str]]:
    """Names of the output head and of the linear layers that can't be quantized, from the configuration alone."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(_config(folder, code=code), trust_remote_code=code)
    head = model.get_output_embeddings()
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    unfit = [
        name
        for name, module in linears.items()
        if module is not head and (module.in_features % NF4_INPUTS or module.out_features % NF4_OUTPUTS)
    ]
    return [name for name, module in linears.items() if module is head], unfit


def _nf4(compute_dtype: str, kept: list[str]) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
        llm_int8_skip_modules=kept,
    )


def _config(folder: Path, *, code: bool) -> Any:
    return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=code)


def _from_folder(
    folder: Path, compute_dtype: str, device: str, *, code: bool, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """The one place where weights are loaded."""
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
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise _not_loaded(folder, str(error).splitlines()[0]) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # anything else, such as a full device, is not the base's fault
            raise
        raise _not_loaded(folder, "its weights have other shapes than its config.json says") from error
    if loaded["missing_keys"]:  # transformers would fill these with noise
        raise _not_loaded(folder, f"its files lack the weights {', '.join(sorted(loaded['missing_keys'])[:3])}")
    _turn_off_packed_kernel(model)
    if compute_dtype != "float32":
        _norms_in_fp32(model)
    return model


def _not_loaded(folder: Path, reason: str) -> BaseModelError:
    return BaseModelError(
        f"the base model in {folder} can't be loaded: {reason}.",
        hint="Look whether its files are whole, and whether this version of transformers knows its model_type.",
    )


def _turn_off_packed_kernel(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Linear4bit):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (torch types attributes as tensors)


def _norms_in_fp32(model: nn.Module) -> None:
    """Norm weights in fp32; what a norm hands on keeps the dtype that came in, so that nothing else changes."""
    for module in model.modules():
        if "Norm" in type(module).__name__ and any(True for _ in module.parameters(recurse=False)):
            module.float()
            module.register_forward_hook(_same_dtype)


def _same_dtype(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype)
