"""A finished adapter as users get it: the folder that ``pull`` hands out, and how to use it.

No torch here: ``assemble`` runs in the control worker. What is published names the base as anybody can find it (hub id
and revision, or what the caller wrote), never a path in this machine's cache.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..settings import bases
from ..settings.errors import StorageError
from ..storage.manifest import MANIFEST, commit
from .checkpoint import room
from .protocol import Base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
FACTS = "celora.json"
FORMAT = 1
"""Version of ``celora.json``."""

TOKENIZER_SUFFIXES = {".json", ".jinja", ".model", ".txt"}
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` takes (vllm/config/lora.py); an adapter needs the next that is not below its rank."""
VLLM_DEFAULT_RANK = 16
ASK = 'print(chat([{"role": "user", "content": "Hello"}], max_new_tokens=128)[0]["generated_text"][-1]["content"])'


def servable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Whether vLLM can serve an adapter, by its own rules (``PEFTHelper.validate_legal``).

    Args:
        config: The adapter's ``adapter_config.json``.

    Returns:
        ``vllm`` (bool), ``reason`` (why, in words), ``max_lora_rank`` (what the server must be started with, or None).
    """
    rank = int(config["r"])
    targets: list[str] = config.get("target_modules") or []
    trained_elsewhere = [name for name in targets if "embed" in name or name == "lm_head"]
    if config.get("use_dora"):
        reason = "it is a DoRA adapter, which vLLM does not load"
    elif config.get("modules_to_save"):
        reason = f"it replaces whole modules ({', '.join(config['modules_to_save'])}), which vLLM does not load"
    elif trained_elsewhere:
        reason = f"it adapts {', '.join(trained_elsewhere)}, which vLLM does not load"
    elif config.get("bias", "none") != "none":
        reason = "it trains biases, which vLLM does not load"
    elif rank > VLLM_RANKS[-1]:
        reason = f"its rank {rank} is above {VLLM_RANKS[-1]}, the largest that vLLM takes"
    else:
        needed = next(size for size in VLLM_RANKS if size >= rank)
        reason = f"rank {rank} fits vLLM's default --max-lora-rank {VLLM_DEFAULT_RANK}"
        if needed > VLLM_DEFAULT_RANK:
            reason = f"rank {rank}: start vLLM with --max-lora-rank {needed} (its default is {VLLM_DEFAULT_RANK})"
        return {"vllm": True, "reason": reason, "max_lora_rank": max(needed, VLLM_DEFAULT_RANK)}
    return {"vllm": False, "reason": reason, "max_lora_rank": None}


def python_snippet(base: Base, adapter: str) -> str:
    """The few lines of Python that use an adapter, without celora.

    Args:
        base: Its base.
        adapter: The adapter's folder, as the reader has it.
    """
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline"]
    entry = bases.find(base.name) if base.kind == "catalogue" else None
    if entry is not None:
        carrier = Path(entry.file)
        lines.insert(0, "from importlib.metadata import distribution")
        folder = f"distribution({_quoted(entry.package)}).locate_file({_quoted(str(carrier.parent))})"
        source = f"{folder}, gguf_file={_quoted(carrier.name)}"
    elif base.kind == "gguf":
        source = f"{_quoted(str(Path(base.name).parent))}, gguf_file={_quoted(Path(base.name).name)}"
    else:
        source = _quoted(base.name) + (f", revision={_quoted(base.revision)}" if base.kind == "hub" else "")
    lines += [
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({source}), {_quoted(adapter)})",
        f'chat = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained({_quoted(adapter)}))',
        ASK,
    ]
    return "\n".join(lines)


def merged_snippet(folder: str) -> str:
    """The few lines of Python that use a merged model.

    Args:
        folder: The model's folder, as the reader has it.
    """
    return "\n".join(
        [
            "from transformers import pipeline",
            f'chat = pipeline("text-generation", model={_quoted(folder)})',
            ASK,
        ]
    )


def assemble(
    adapter_dir: Path,
    prepared_dir: Path,
    out_dir: Path,
    *,
    base: Base,
    spec: dict[str, Any],
    resolved: dict[str, Any],
    metrics: dict[str, Any],
    servable: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """Build the folder that users pull: weights, configuration, tokenizer with its chat template, card, facts.

    It is written aside and renamed when its manifest stands; ``out_dir`` is replaced.

    Args:
        adapter_dir: The trainer's checked ``adapter/``.
        prepared_dir: The job's ``prepared/``.
        out_dir: Where it goes.
        base: The base that it names.
        spec: The job spec as it was asked for.
        resolved: The recipe as it ran.
        metrics: Of ``EvaluateResult``.
        servable: Of ``EvaluateResult``.
        facts: What else is known, for people and programs (job, cost, GPU, times, checks, …).

    Raises:
        StorageError: A file that belongs in it is missing.
        DiskFullError: No room for it.
    """
    from . import card  # noqa: PLC0415  (the card's text needs this module's snippet)

    prepared = _read_json(prepared_dir / "prepared.json")
    data = {
        name: prepared.get(name) for name in ("dataset_sha256", "train_rows", "eval_rows", "train_tokens", "template")
    }
    record = {
        "format": FORMAT,
        "base": base.model_dump(mode="json"),
        "spec": portable(spec),
        "resolved": resolved,
        "data": data,
        "metrics": metrics,
        "servable": servable,
        "facts": facts,
    }
    tokenizer = [path for path in _below(prepared_dir / "tokenizer") if path.suffix in TOKENIZER_SUFFIXES]
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    staged = out_dir.parent / f".staged-{uuid4().hex}"  # (not mkdtemp: others must be able to read it)
    staged.mkdir()
    try:
        with room(staged, sum(path.stat().st_size for path in [adapter_dir / WEIGHTS, *tokenizer] if path.is_file())):
            _copy(adapter_dir / WEIGHTS, staged)
            for path in tokenizer:
                _copy(path, staged)
            _write_json(staged / CONFIG, portable_config(_read_json(adapter_dir / CONFIG), base))
            _write_json(staged / FACTS, record)
            (staged / CARD).write_text(card.model_card(record), encoding="utf-8")
            commit(staged, out_dir, kind="adapter", base=base.name, job=facts.get("job"))
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def portable_config(config: dict[str, Any], base: Base) -> dict[str, Any]:
    """An ``adapter_config.json`` that names the base as anybody can find it, ready for inference."""
    return {
        **config,
        "base_model_name_or_path": base.name,
        "revision": base.revision if base.kind == "hub" else None,
        "inference_mode": True,
    }


def portable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A job spec without this machine's folders (files keep their names) and without who asked."""
    kept = {name: value for name, value in spec.items() if name != "user"}
    for name in ("dataset", "eval_dataset"):
        value = kept.get(name)
        if isinstance(value, str):
            kept[name] = _file_name(value)
        elif isinstance(value, dict):
            kept[name] = {str(key): _file_name(str(path)) for key, path in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    gate: dict[str, Any] | None = kept.get("gate")
    if gate and gate.get("must_pass"):
        kept["gate"] = {**gate, "must_pass": _file_name(str(gate["must_pass"]))}
    return kept


def _file_name(path: str) -> str:
    """The name of a local file; an address or a hub id as it is."""
    is_local = "://" not in path and (path.startswith(("/", ".", "~")) or Path(path).suffix)
    return Path(path).name if is_local else path


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StorageError(f"{folder} is missing, so the adapter can't be published with its tokenizer.")
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)


def _copy(path: Path, folder: Path) -> None:
    if not path.is_file():
        raise StorageError(f"{path} is missing, so the adapter can't be published.")
    shutil.copyfile(path, folder / path.name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} can't be read ({error}), so the adapter can't be published.") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)  # JSON has no NaN
    path.write_text(json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
