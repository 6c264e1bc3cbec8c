"""Writes the lines of Python that use an adapter without celora, and applies vLLM's rules for serving it.

No torch here: the control worker writes these lines into the model card.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...settings import bases
from ..protocol import Base
from .vllm_architectures import WITH_LORA, WITHOUT_LORA

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank`` (vllm/config/lora.py); an adapter needs the smallest one not below its rank."""
VLLM_DEFAULT_RANK = 16
QUESTION = 'chat([{"role": "user", "content": "Hello"}], max_new_tokens=128, eos_token_id=chat.tokenizer.eos_token_id)'
"""Line that asks the model a question. It uses the adapter's tokenizer, which names the end token of the chat template
of its training. The base's generation settings may name another token, and then an answer would not end."""
ASK = f'print({QUESTION}[0]["generated_text"][-1]["content"])'


def servable(config: Mapping[str, Any], architectures: Sequence[str]) -> dict[str, Any]:
    """Decide by vLLM's own rules (``PEFTHelper.validate_legal``, its list of models) whether vLLM can serve an adapter.

    Args:
        config: The adapter's ``adapter_config.json``.
        architectures: ``architectures`` of the base's ``config.json``.

    Returns:
        ``vllm`` (bool), ``reason`` (in words), ``max_lora_rank`` (the value that the server needs, or None).
    """
    rank = int(config["r"])
    if reason := _unservable(config, rank) or _without_lora(architectures):
        return {"vllm": False, "reason": reason, "max_lora_rank": None}
    needed = next(size for size in VLLM_RANKS if size >= rank)
    reason = f"rank {rank} fits vLLM's default --max-lora-rank {VLLM_DEFAULT_RANK}"
    if needed > VLLM_DEFAULT_RANK:
        reason = f"rank {rank}: start vLLM with --max-lora-rank {needed} (its default is {VLLM_DEFAULT_RANK})"
    return {"vllm": True, "reason": reason, "max_lora_rank": max(needed, VLLM_DEFAULT_RANK)}


def _unservable(config: Mapping[str, Any], rank: int) -> str:
    """Return the reason why vLLM does not load an adapter; empty where it does."""
    targets: list[str] = config.get("target_modules") or []
    trained_elsewhere = [name for name in targets if "embed" in name or name == "lm_head"]
    whole: list[str] = config.get("modules_to_save") or []
    experts: list[str] = config.get("target_parameters") or []
    reasons = (
        (config.get("use_dora"), "it is a DoRA adapter, which vLLM does not load"),
        (whole, f"it replaces whole modules ({', '.join(whole)}), which vLLM does not load"),
        (trained_elsewhere, f"it adapts {', '.join(trained_elsewhere)}, which vLLM does not load"),
        (config.get("bias", "none") != "none", "it trains biases, which vLLM does not load"),
        (rank > VLLM_RANKS[-1], f"its rank {rank} is above {VLLM_RANKS[-1]}, the largest that vLLM takes"),
        (experts, f"it adapts experts as tensors ({', '.join(experts)}): merge it, celora pull --merged"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _without_lora(architectures: Sequence[str]) -> str:
    """Return the reason why vLLM loads no adapter on a base of these architectures; empty where it does."""
    if WITH_LORA.intersection(architectures):
        return ""
    named = ", ".join(architectures)
    if WITHOUT_LORA.intersection(architectures):
        return f"vLLM serves {named} without LoRA adapters; merge it: celora pull --merged"
    return (
        f"vLLM's list of models with LoRA does not name {named or 'its architecture'}; merge it: celora pull --merged"
    )


def python_snippet(base: Base, adapter: str) -> str:
    """Return the few lines of Python that use an adapter without celora.

    Args:
        base: The adapter's base.
        adapter: The path of the adapter's folder on the reader's machine.
    """
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline"]
    if base.kind == "catalogue":
        lines.insert(0, "from importlib.metadata import distribution")
    lines += [
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({_source(base)}), {_quoted(adapter)})",
        f'chat = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained({_quoted(adapter)}))',
        ASK,
    ]
    return "\n".join(lines)


def _source(base: Base) -> str:
    """Return the arguments with which transformers loads a base."""
    entry = bases.find(base.name) if base.kind == "catalogue" else None
    if entry is not None:
        carrier = Path(entry.file)
        folder = f"distribution({_quoted(entry.package)}).locate_file({_quoted(str(carrier.parent))})"
        return f"{folder}, gguf_file={_quoted(carrier.name)}"
    if base.kind == "gguf":
        return f"{_quoted(str(Path(base.name).parent))}, gguf_file={_quoted(Path(base.name).name)}"
    return _quoted(base.name) + (f", revision={_quoted(base.revision)}" if base.kind == "hub" else "")


def nf4_snippet(base: Base, adapter: str, compute_dtype: str) -> str:
    """Return the lines that load a base as it was trained and measured, in 4 bits, in place of the line ``model = ``.

    Args:
        base: The adapter's base.
        adapter: The path of the adapter's folder on the reader's machine.
        compute_dtype: The dtype of the training's arithmetic.

    Returns:
        Empty for a GGUF file, which transformers can't quantize; only celora measures on such a base.
    """
    if base.kind in ("catalogue", "gguf"):
        return ""
    dtype = _quoted(compute_dtype)
    settings = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
    return "\n".join(
        [
            "from transformers import BitsAndBytesConfig",
            f"nf4 = BitsAndBytesConfig({settings}, bnb_4bit_compute_dtype={dtype})",
            f"base = AutoModelForCausalLM.from_pretrained({_source(base)}, quantization_config=nf4, dtype={dtype})",
            f"model = PeftModel.from_pretrained(base, {_quoted(adapter)})",
        ]
    )


def modelfile(base: Base, adapter: str, end_token: str) -> str:
    """Return the lines of Ollama's Modelfile that serve an adapter and stop at the end of an answer.

    The directives are those of Ollama's documentation (docs.ollama.com/modelfile). No run of ours has tried them.

    Args:
        base: The adapter's base.
        adapter: The path of the adapter's folder on the reader's machine.
        end_token: The token that ends an answer.
    """
    return f"FROM {base.name}\nADAPTER {adapter}\nPARAMETER stop {_quoted(end_token)}"


def merged_snippet(folder: str) -> str:
    """Return the few lines of Python that use a merged model.

    Args:
        folder: The path of the model's folder on the reader's machine.
    """
    return "\n".join(
        [
            "from transformers import pipeline",
            f'chat = pipeline("text-generation", model={_quoted(folder)})',
            ASK,
        ]
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
