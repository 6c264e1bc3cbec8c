"""Inspects the files of a base model without loading it: size, digest, and safety of loading.

No torch here. Shapes come from the headers of the safetensors files, so that an 8 B model is counted in milliseconds.
Digests are cached by size and change times, since hashing 16 GB for each job would cost more than loading the files.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...errors import BadBaseError, BaseModelError
from ...storage.manifest import file_sha256
from .local_files import judge_files, read_text, readable

_WEIGHT_MAP: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])
MOST_LEVELS = 64
"""Deepest allowed nesting of a base's JSON; real models have six levels."""
SHOWN_LETTERS = 100
WEIGHTS = frozenset({"model.safetensors", "model.safetensors.index.json"})
"""The file of a whole model, and the index of one in several files."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
CODE_FIELDS = ("_attn_implementation_internal", "_experts_implementation_internal", "kernels", "hub_kernels")
"""Fields of config.json that make transformers fetch and run a hub's code (CVE-2026-4372 and similar ones)."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a base model's folder.

    Raises:
        BaseModelError: The file is missing.
        BadBaseError: The file holds no JSON object, or one that is nested too deeply.
    """
    if not path.is_file():
        raise BaseModelError(f"there is no {path}.", hint="A base model's folder needs config.json and safetensors.")
    text = read_text(path)
    with readable(path):
        content: Any = json.loads(text)
        if not isinstance(content, dict):
            raise BadBaseError(f"{path} holds no JSON object.")
        _refuse_depth(path, content)
    return content  # pyright: ignore[reportUnknownVariableType]


def _refuse_depth(path: Path, content: Any) -> None:
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise BadBaseError(f"{path} is nested more than {MOST_LEVELS} levels deep.")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the model: those of the index, else ``model.safetensors``.

    transformers loads no file of another name.

    Raises:
        BaseModelError: No such file exists (the message lists the existing files), or the index names a missing file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names, here = sorted(set(_shards(index).values())), {path.name for path in folder.iterdir()}
        strange = [name[:SHOWN_LETTERS] for name in names if name not in here or not (folder / name).is_file()]
        if strange or not names:
            shown = ", ".join(strange[:3]) or "none"
            raise BadBaseError(f"{index} names weights that {folder} doesn't hold: {shown}.")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise no_safetensors(str(folder), (path.name for path in folder.iterdir()))


def _shards(index: Path) -> dict[str, str]:
    """Return the file of each weight."""
    try:
        return _WEIGHT_MAP.validate_python(read_json(index).get("weight_map") or {}, strict=True)
    except ValidationError:
        raise BadBaseError(f"{index} has a weight_map that does not name a file for each weight.") from None


def no_safetensors(where: str, names: Iterable[str]) -> BaseModelError:
    """Make the error for a base without loadable safetensors; the message says which weights exist instead."""
    found = set(names)
    if "adapter_config.json" in found:
        return BaseModelError(f"{where} is a LoRA adapter, not a base model.", hint="Name the base it was trained on.")
    pickles = sorted(name for name in found if any(fnmatch(name, pattern) for pattern in PICKLES))
    if pickles:
        return BaseModelError(
            f"{where} has no safetensors weights, only {', '.join(pickles[:3])}: such files can run code when loaded.",
            hint="Use a repository or revision with *.safetensors, or convert it on a machine you trust.",
        )
    others = sorted(name for name in found if name.endswith(".safetensors"))
    if any(name.startswith("consolidated") for name in others):
        return BaseModelError(
            f"{where} has its weights in {', '.join(others[:3])} alone, the format of the model's own program, which "
            "transformers does not read.",
            hint="Use a repository or revision with model.safetensors, or convert it with transformers' script.",
        )
    if others:
        return BaseModelError(
            f"{where} has no model.safetensors and no index, only {', '.join(others[:3])}.",
            hint="A single file must be called model.safetensors; several need model.safetensors.index.json.",
        )
    return BaseModelError(f"{where} has no model weights (*.safetensors).", hint="Look at the name and the revision.")


def refuse_unsafe(where: str, configs: Iterable[dict[str, Any]], names: Iterable[str], *, code_allowed: bool) -> None:
    """Refuse a base whose loading would run code that came with it.

    Args:
        where: The base, for the message.
        configs: The base's config.json and tokenizer_config.json, as far as they exist.
        names: The names of the base's files.
        code_allowed: Whether the operator listed the base under ``remote_code_bases``.

    Raises:
        BaseModelError: The base needs its own code to run, or it is already quantized.
    """
    scripts = [name for name in names if name.endswith(".py")]
    for config in configs:
        for field, value in _fields(config):
            named_kernel = field.endswith("implementation") and "/" in str(value)
            if (field in CODE_FIELDS and value is not None) or named_kernel:
                raise BaseModelError(
                    f"the configuration of {where} has the field {field!r}, which fetches and runs code from a hub.",
                    hint="Use a copy without that field.",
                )
            if field == "auto_map" and not code_allowed:
                scripts.append("auto_map")
        if quantization := config.get("quantization_config"):
            method: Any = quantization.get("quant_method") if isinstance(quantization, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            raise BaseModelError(
                f"{where} is quantized already ({method or 'unknown method'}).",
                hint="Name the 16-bit original; celora quantizes it itself.",
            )
    if scripts and not code_allowed:
        raise BaseModelError(
            f"{where} brings code of its own ({', '.join(sorted(set(scripts))[:3])}), which is not run.",
            hint="An operator who has read that code can list the base in CELORA_REMOTE_CODE_BASES.",
        )


def count_parameters(folder: Path) -> int:
    """Count the weights in a folder, from the headers of its files; tied weights are stored, and counted, once."""
    return sum(math.prod(shape) for _, shape in tensor_shapes(folder))


def tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of each tensor of a model folder.

    Raises:
        BaseModelError: A file is truncated or no safetensors file.
    """
    for path in weight_files(folder):
        yield from _shapes(path)


def folder_digest(folder: Path, cache: Path) -> str:
    """Return ``sha256:…`` over the configuration and the weights of a model folder; the cache stores file digests."""
    parts = [f"{path.name} {file_digest(path, cache)}" for path in [folder / "config.json", *weight_files(folder)]]
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_digest(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file in hex; it is computed again only if the file's size or change times differ."""
    memory = cache / "digests.json"
    state = path.stat()
    key, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns, state.st_ctime_ns]  # no program can set ctime
    known = _remembered(memory)
    if key in known and known[key][:-1] == stamp:
        return str(known[key][-1])
    digest = file_sha256(path)
    _remember(memory, _remembered(memory) | {key: [*stamp, digest]})
    return digest


def _shapes(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (comes with the part for training)

    judge_files([path])
    try:
        opened: Any = safe_open(path, framework="numpy")
        with readable(path), opened as file:
            return [(str(name), tuple(file.get_slice(name).get_shape())) for name in file.keys()]  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> BadBaseError:
    """Make the error for a weight file with an unreadable header; ``reason`` is the library's own message."""
    size_bytes = path.stat().st_size
    if "MetadataIncompleteBuffer" in reason or "incomplete metadata" in reason.lower():
        return BadBaseError(f"{path} is cut: its header speaks of more than its {size_bytes:,} bytes.")
    return BadBaseError(f"{path} is cut or no safetensors file.", hint="Fetch it again.")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested JSON objects."""
    if isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield str(key), item  # pyright: ignore[reportUnknownArgumentType]
            yield from _fields(item)
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _fields(item)


def _remembered(memory: Path) -> dict[str, list[Any]]:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # only a cache: without it the file is hashed again
        return {}


def _remember(memory: Path, known: dict[str, list[Any]]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".digests-", dir=memory.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(known, file)
    Path(aside).replace(memory)
