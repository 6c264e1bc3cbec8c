"""What the files of a base model tell without loading it: its size, its digest, and whether it is safe to load.

No torch here. Shapes come from the headers of the safetensors files (eight bytes of length, then JSON), so that an
8 B model is counted in milliseconds. Digests are remembered by size and time of change, since hashing 16 GB for each
job would cost more than loading them.
"""

import hashlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..settings.errors import BaseModelError
from ..storage.manifest import file_sha256

HEADER_LIMIT_BYTES = 100 * 2**20
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
CODE_FIELDS = ("_attn_implementation_internal", "_experts_implementation_internal", "kernels", "hub_kernels")
"""Fields of config.json that make transformers fetch and run a hub's code (CVE-2026-4372 and its kin)."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a base model's folder.

    Raises:
        BaseModelError: The file is missing or holds no JSON object.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path} can't be read ({error}).", hint="A base model's folder needs config.json and safetensors weights."
        ) from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} holds no JSON object.")
    return content  # pyright: ignore[reportUnknownVariableType]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: those of the index, else ``model.safetensors``, else the only one.

    Raises:
        BaseModelError: There are none (the message says what is there instead), or the index names a missing file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards: dict[str, str] = read_json(index).get("weight_map") or {}
        files = [folder / name for name in sorted(set(shards.values()))]
        strange = [file.name for file in files if file.parent != folder or not file.is_file()]
        if strange or not files:
            raise BaseModelError(f"{index} names weights that {folder} doesn't hold: {', '.join(strange) or 'none'}.")
        return files
    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    raise no_safetensors(str(folder), (path.name for path in folder.iterdir()))


def no_safetensors(where: str, names: Iterable[str]) -> BaseModelError:
    """The refusal for a base without loadable safetensors; it says what is there instead."""
    found = set(names)
    if "adapter_config.json" in found:
        return BaseModelError(f"{where} is a LoRA adapter, not a base model.", hint="Name the base it was trained on.")
    pickles = sorted(name for name in found if any(fnmatch(name, pattern) for pattern in PICKLES))
    if pickles:
        return BaseModelError(
            f"{where} has no safetensors weights, only {', '.join(pickles[:3])}: such files can run code when loaded.",
            hint="Use a repository or revision with *.safetensors, or convert it on a machine you trust.",
        )
    return BaseModelError(f"{where} has no model weights (*.safetensors).", hint="Look at the name and the revision.")


def refuse_unsafe(where: str, configs: Iterable[dict[str, Any]], names: Iterable[str], *, code_allowed: bool) -> None:
    """Refuse a base whose loading would run code that came with it.

    Args:
        where: The base, for the message.
        configs: Its config.json and tokenizer_config.json, as far as they exist.
        names: The names of its files.
        code_allowed: Whether the operator listed it under ``remote_code_bases``.

    Raises:
        BaseModelError: It wants to run code, or it is quantized already.
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
        if config.get("quantization_config"):
            method: Any = config["quantization_config"].get("quant_method", "unknown method")
            raise BaseModelError(
                f"{where} is quantized already ({method}).",
                hint="Name the 16-bit original; celora quantizes it itself.",
            )
    if scripts and not code_allowed:
        raise BaseModelError(
            f"{where} brings code of its own ({', '.join(sorted(set(scripts))[:3])}), which is not run.",
            hint="An operator who has read that code can list the base in CELORA_REMOTE_CODE_BASES.",
        )


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder, from the headers of its files; tied weights are stored, and counted, once."""
    return sum(math.prod(shape) for _, shape in tensor_shapes(folder))


def tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a model folder.

    Raises:
        BaseModelError: A file is cut or no safetensors file.
    """
    for path in weight_files(folder):
        for name, entry in _header(path).items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


def folder_digest(folder: Path, cache: Path) -> str:
    """``sha256:…`` over the configuration and the weights of a model folder; remembered in the cache."""
    parts = [f"{path.name} {file_digest(path, cache)}" for path in [folder / "config.json", *weight_files(folder)]]
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file, hex; not computed again while its size and time of change stay."""
    memory = cache / "digests.json"
    state = path.stat()
    key, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
    known = _remembered(memory)
    if key in known and known[key][:2] == stamp:
        return str(known[key][2])
    digest = file_sha256(path)
    _remember(memory, _remembered(memory) | {key: [*stamp, digest]})
    return digest


def context_tokens(config: dict[str, Any]) -> int:
    """The model's context in tokens; 2048 where its configuration does not say."""
    text = text_config(config)
    for field in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx"):
        value = text.get(field)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration (multimodal ones nest it)."""
    return {**config, **(config.get("text_config") or {})}


def _header(path: Path) -> dict[str, Any]:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0  # noqa: PLR2004  (the format's eight bytes)
        if not 0 < length <= min(HEADER_LIMIT_BYTES, size_bytes - 8):
            raise BaseModelError(f"{path} is cut or no safetensors file.", hint="Fetch it again.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BaseModelError(f"{path} has an unreadable safetensors header.", hint="Fetch it again.") from error
    if max(ends, default=0) + 8 + length > size_bytes:
        raise BaseModelError(f"{path} is cut: its header speaks of more than its {size_bytes:,} bytes.")
    return header


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested JSON objects."""
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
    except (OSError, ValueError):  # only a memory: without it the file is hashed again
        return {}


def _remember(memory: Path, known: dict[str, list[Any]]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".digests-", dir=memory.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(known, file)
    Path(aside).replace(memory)
