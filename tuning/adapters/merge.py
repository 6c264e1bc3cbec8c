# pyright: basic
# (torch, transformers and PEFT ship incomplete types)
"""``merge``: folds an adapter into its base, for servers that accept whole models only.

The weights come from the 16-bit base, never from the 4-bit copy that the adapter was trained on: folding into 4-bit
weights would make their rounding permanent. The written model is loaded again from the disk and must answer like the
base with the adapter switched on. The result states the distance between the two and the size of the adapter's own
effect, since a weak adapter may be smaller than the rounding of 16-bit weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from ...errors import VerificationError
from ...storage.manifest import MANIFEST, commit
from ..bases import base as bases
from ..bases import quantize
from ..bases.generation import stop_tokens
from ..failures import Situation, explained
from ..protocol import Base, Emit, MergeRequest, MergeResult
from .load import plain_peft
from .package import CARD, CONFIG, FACTS, TOKENIZER_SUFFIXES

PROBE = "The quick brown fox jumps over the lazy dog. 12 + 30 = 42."
PROBE_TOKENS = 16
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.02}
"""Allowed distance of the merged model's logits from the unmerged one's: root mean square, as a share of the logits'.

16-bit weights round each sum to 8 (bf16) or 11 (fp16) bits; the error of a logit grows with depth. SmolLM2-135M with
the demo's adapter: 2.6e-6 in fp32, 0.042 in bf16, 0.0047 in fp16, where the adapter's own effect is 0.38."""


def merge(request: MergeRequest, emit: Emit) -> MergeResult:
    """Fold an adapter into its 16-bit base and write a model folder that needs neither PEFT nor celora.

    Args:
        request: The adapter and its base. ``out_dir`` must not exist yet; it appears whole or not at all.
        emit: Receives the phases as events.

    Raises:
        VerificationError: The merged model does not answer like base and adapter; nothing is written.
        StorageError: ``adapter_dir`` holds no adapter.
        BaseModelError: The base is not available here.
        TrainingError: Memory ran out, or the device failed.
        DiskFullError: The disk has no space for the weights.
    """
    out = Path(request.out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.parent / f".staged-{uuid4().hex}"
    staged.mkdir()
    try:
        with explained(Situation(request.device, out.parent)):
            return _merge(request, emit, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _merge(request: MergeRequest, emit: Emit, staged: Path) -> MergeResult:
    folder, adapter = Path(request.adapter_dir), request.adapter_dir
    base_folder = bases.folder(request.base, Path(request.cache_dir), request.hub, emit)
    own_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer: Any = bases.load_tokenizer(folder if own_tokenizer else base_folder)
    model, _ = bases.load_model(
        request.base,
        Path(request.cache_dir),
        request.hub,
        quantization="none",
        compute_dtype=request.dtype,
        device=request.device,
        emit=emit,
    )
    probe = torch.tensor([tokenizer(PROBE, add_special_tokens=False)["input_ids"][:PROBE_TOKENS]])
    peft = plain_peft(model, folder)
    emit("phase", phase="merging", done=None, total=None)
    tuned = _logits(peft, probe, request.device)
    with peft.disable_adapter():
        bare = _logits(peft, probe, request.device)
    merged: Any = peft.merge_and_unload(safe_merge=True)  # refuses numbers that are not finite
    merged.to(getattr(torch, request.dtype))  # the norms too, which are fp32 while we compute
    emit("phase", phase="writing the weights", done=None, total=None)
    if stops := stop_tokens(folder):  # of the chat template that the adapter was trained with
        merged.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    merged.save_pretrained(staged)
    del merged, peft, model
    emit("phase", phase="checking the written model", done=None, total=None)
    code = request.hub.allows_code(request.base.name)
    again = quantize.load(
        request.base, staged, compute_dtype=request.dtype, device=request.device, code=code, emit=lambda *_, **__: None
    )
    result = _compared(_logits(again, probe, request.device), tuned, bare, request.dtype)
    del again
    _furnish(staged, folder, tokenizer, request, result)
    commit(staged, Path(request.out_dir), kind="merged", base=request.base.name, adapter=adapter)
    return result


def _logits(model: Any, probe: torch.Tensor, device: str) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=probe.to(device), use_cache=False).logits.float().cpu()


def _compared(merged: torch.Tensor, tuned: torch.Tensor, bare: torch.Tensor, dtype: str) -> MergeResult:
    apart, effect = _root_mean_square(merged - tuned), _root_mean_square(tuned - bare)
    allowed = TOLERANCE[dtype] * _root_mean_square(tuned)
    if not apart <= allowed:  # also where it is not a number
        raise VerificationError(
            f"the merged model does not answer like base and adapter: its logits are {apart:.3g} apart (root "
            f"mean square), {allowed:.3g} is what {dtype} explains.",
            hint="Nothing was written. Serve the adapter beside its base instead, and report this.",
        )
    warnings = []
    if apart > effect / 2:
        warnings.append(
            f"rounding to {dtype} moves the logits by {apart:.3g}, the adapter itself by {effect:.3g}: much of it is "
            "lost in merging; serve it beside its base, or merge in float32"
        )
    return MergeResult(dtype=dtype, logits_apart=apart, adapter_effect=effect, warnings=warnings)


def _root_mean_square(logits: torch.Tensor) -> float:
    return float(logits.double().square().mean().sqrt())


def _furnish(staged: Path, adapter: Path, tokenizer: Any, request: MergeRequest, result: MergeResult) -> None:
    """Write tokenizer, card and facts beside the weights."""
    theirs = {CONFIG, FACTS, MANIFEST, "config.json", "generation_config.json"}
    files = [path for path in adapter.iterdir() if path.suffix in TOKENIZER_SUFFIXES and path.name not in theirs]
    for path in files:
        shutil.copyfile(path, staged / path.name)
    if not (staged / "tokenizer_config.json").is_file():
        tokenizer.save_pretrained(staged)
    known = json.loads((adapter / FACTS).read_text(encoding="utf-8")) if (adapter / FACTS).is_file() else {}
    merged = {"base": request.base.model_dump(mode="json"), **result.model_dump(mode="json")}
    (staged / FACTS).write_text(json.dumps({**known, "merged": merged}, ensure_ascii=False, indent=1), encoding="utf-8")
    (staged / CARD).write_text(_card(request.base, result), encoding="utf-8")


def _card(base: Base, result: MergeResult) -> str:
    origin = f"base_model: {base.name}\n" if base.kind == "hub" else ""
    apart, effect = f"{result.logits_apart:.3g}", f"{result.adapter_effect:.3g}"
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n{origin}---\n\n"
        f"# {base.name} with a LoRA adapter merged into it\n\n"
        f"Whole weights in {result.dtype}, merged by celora into the 16-bit base (revision {base.revision}).\n"
        f"Its logits differ from those of base and adapter side by side by {apart}, where the adapter itself moves\n"
        f"them by {effect} (root mean squares).\n\n"
        "`celora.json` holds what is known of the training.\n"
    )
