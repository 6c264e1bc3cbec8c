"""Builds the folder of a finished adapter that users pull.

No torch here: ``assemble`` runs in the control worker. The folder names the base by hub id and revision, or as the
caller wrote it, so that any machine can find the base. It never names a path in this machine's cache.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from ...errors import StorageError
from ...storage.disk_space import room
from ...storage.manifest import MANIFEST, commit
from ..protocol import Base
from .card import model_card

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
FACTS = "celora.json"
FORMAT = 1
"""Version of ``celora.json``."""

TOKENIZER_SUFFIXES = {".json", ".jinja", ".model", ".txt"}


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

    The folder is written under another name and renamed once its manifest is written; it replaces ``out_dir``.

    Args:
        adapter_dir: The trainer's checked ``adapter/``.
        prepared_dir: The job's ``prepared/``.
        out_dir: The destination.
        base: The base that the folder names.
        spec: The job spec as the caller submitted it.
        resolved: The recipe of the run.
        metrics: Of ``EvaluateResult``.
        servable: Of ``EvaluateResult``.
        facts: Further facts for people and programs (job, cost, GPU, times, checks, …).

    Raises:
        StorageError: A required file is missing.
        DiskFullError: The disk has no space for the folder.
    """
    prepared = _read_json(prepared_dir / "prepared.json")
    data = {
        name: prepared.get(name) for name in ("dataset_sha256", "train_rows", "eval_rows", "train_tokens", "template")
    }
    data["end_token"] = _end_token(prepared_dir / "tokenizer")
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
            (staged / CARD).write_text(model_card(record), encoding="utf-8")
            commit(staged, out_dir, kind="adapter", base=base.name, job=facts.get("job"))
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def portable_config(config: dict[str, Any], base: Base) -> dict[str, Any]:
    """Return an ``adapter_config.json`` for inference that names the base so that any machine can find it."""
    return {
        **config,
        "base_model_name_or_path": base.name,
        "revision": base.revision if base.kind == "hub" else None,
        "inference_mode": True,
    }


def portable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job spec without this machine's folders (file names stay) and without the submitter."""
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
    """Return the name of a local file, or an address or a hub id unchanged."""
    is_local = "://" not in path and (path.startswith(("/", ".", "~")) or Path(path).suffix)
    return Path(path).name if is_local else path


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StorageError(f"{folder} is missing, so the adapter can't be published with its tokenizer.")
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)


def _end_token(tokenizer: Path) -> str | None:
    """Return the token that ends an answer; ``save_tokenizer`` made it the tokenizer's eos."""
    config = tokenizer / "tokenizer_config.json"
    eos: Any = _read_json(config).get("eos_token") if config.is_file() else None
    if isinstance(eos, dict):  # an added token with its properties
        return str(cast("dict[str, Any]", eos)["content"])
    return eos


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
