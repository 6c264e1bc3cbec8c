"""Caches prepared data below the installation's own cache, under a key of everything that shapes the data.

The key is the digest of the files' contents, the base with its tokenizer's files, the settings that change a token, the
versions of the libraries that make them, and the version of what celora itself makes of rows, templates and tokenizers
(``tuning.semantics``). It is known before any of those libraries is loaded, so that a second run takes the time of
hashing the files. Settings that do not change a token (rank, learning rate) are not part of the key: a run that reuses
an entry fits the estimates to its own recipe.

An entry is a folder with a manifest, verified at each use, and its files are hard links where the disk allows it. Only
``sweep`` removes an entry, some days after its last use; a damaged entry is removed at once and made anew.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from ...errors import StorageError
from ...storage.disk_space import NO_SPACE
from ...storage.file_lock import locked
from ...storage.manifest import MANIFEST, files_below, verify_manifest
from ..bases.model_files import file_digest
from ..files.parts import content_sha256
from ..protocol import Base, Emit, PrepareRequest
from ..semantics import SEMANTICS

logger = logging.getLogger(__name__)

PREPARED = "prepared"
LOCK = ".lock"
DAY_S = 86400
FACTS = frozenset({"prepared.json", "receipt.json", MANIFEST})
"""Files that differ between a run and its reuse."""

LAYOUT = 7
"""Version of the output; increased when ``prepare`` writes something else from the same input."""

LIBRARIES = ("celora", "jinja2", "tokenizers", "transformers", "trl")
PRIVATE = frozenset(
    {"v", "op", "job", "attempt", "cache_dir", "hub", "threads", "limits", "out_dir", "sources", "file_names"}
    | {"devices", "eval_max_rows", "eval_max_new_tokens", "sources"}
    | {"base_model", "revision", "dataset", "eval_datasets", "recipe", "seed"}
    | {"op", "devices", "eval_max_rows", "eval_max_new_tokens"}
)
"""Fields of a request that name this run, that only its estimate is made from, or that the key holds in another form.
Any other field is a part of the key."""

TRAINING = frozenset(
    {"rank", "alpha", "dropout", "target_modules", "dora", "rslora", "quantization", "epochs", "max_steps"}
    | {"micro_batch", "accumulation", "effective_batch", "learning_rate", "schedule", "warmup_ratio", "warmup_steps"}
    | {"weight_decay", "max_grad_norm", "optimizer", "gradient_checkpointing", "early_stopping_patience"}
    | {"eval_steps", "save_steps", "save_minutes", "epoch_checkpoints", "report_to", "max_length"}
    | {"beta", "loss_type", "loss_weights", "label_smoothing", "desirable_weight", "undesirable_weight"}
)
"""Fields of a recipe that change no token; ``max_length`` enters the key in its resolved form."""

TRAIN = "train"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")


class Store:
    """Looks up the cached data of one request.

    Args:
        request: The request to prepare. A path that is no file is left for its reader to
            refuse.

    Attributes:
        hashes: SHA-256 of each set's file.
    """

    def __init__(self, request: PrepareRequest) -> None:
        self._request = request
        self._folder = Path(request.cache_dir) / PREPARED
        paths = {TRAIN: request.dataset, **request.eval_datasets}
        there = {name: Path(path) for name, path in paths.items() if Path(path).is_file() or Path(path).is_dir()}
        self.hashes = {name: content_sha256(path) for name, path in there.items()}
        self._data_key = _digest(
            {
                "layout": LAYOUT,
                "semantics": SEMANTICS,
                "libraries": {name: _version(name) for name in LIBRARIES},
                "files": [[name, self.hashes.get(name), _suffix(path)] for name, path in paths.items()],
                "settings": request.model_dump(
                    mode="json", exclude=set(PRIVATE if request.owner else PRIVATE | {"owner"})
                ),
                "recipe": request.recipe.model_dump(mode="json", exclude=set(TRAINING)),
                "seed": request.seed if request.eval_fraction and not request.eval_datasets else None,
            }
        )

    @property
    def seen(self) -> bool:
        """Return whether these rows were prepared with these settings, for any base: they are then known to be good."""
        return any(self._folder.glob(f"{self._data_key}-*"))

    def entry(self, base: Base, base_folder: Path, max_length: int) -> "Entry":
        """Return the entry for a base, which need not exist; ``max_length`` is the resolved one."""
        cache = Path(self._request.cache_dir)
        facts = {
            "base": base.model_dump(mode="json", exclude={"source"}),
            "tokenizer": {path.name: file_digest(path, cache) for path in _small_files(base_folder)},
            "max_length": max_length,
        }
        return Entry(self._folder / f"{self._data_key}-{_digest(facts)}")


class Entry:
    """Manages one set of prepared data in the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, staged: Path, emit: Emit) -> bool:
        """Put the entry's files into an empty folder, those of its facts (``FACTS``) as copies that may be changed.

        Returns:
            False where the entry does not exist, or is damaged and was removed.
        """
        if not self.folder.is_dir():
            return False
        with locked(self.folder.parent / LOCK, shared=True):
            try:
                names = [str(entry["name"]) for entry in verify_manifest(self.folder)["files"]]
            except StorageError as error:
                reason = str(error)
            else:
                _place(self.folder, staged, names)
                os.utime(self.folder)  # records the last use, for sweep
                return True
        emit("note", level="warning", message=f"prepared data in the cache is damaged and is made anew: {reason}")
        with locked(self.folder.parent / LOCK):
            shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def keep(self, prepared: Path, emit: Emit) -> None:
        """Store a committed prepared folder; on a full disk only emit a note."""
        aside = self.folder.with_name(f".{self.folder.name}-{uuid.uuid4().hex[:8]}")
        try:
            aside.mkdir(parents=True)
            _place(prepared, aside, [*files_below(prepared), MANIFEST])
            with locked(self.folder.parent / LOCK):
                if not self.folder.exists():  # another process may have stored it first
                    aside.rename(self.folder)
        except OSError as error:
            if error.errno not in (*NO_SPACE, errno.EACCES, errno.EROFS):
                raise
            emit("note", level="warning", message=f"the prepared data can't be kept for reuse: {error.strerror}")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def sweep(cache: Path, keep_days: float, limit_bytes: int = 0) -> int:
    """Remove entries unused for ``keep_days``, the longest unused above a size, and the leftovers of killed processes.

    Args:
        cache: The installation's cache.
        keep_days: Days since the last use.
        limit_bytes: Largest size of the entries that stay; 0: no limit.

    Returns:
        The number of freed bytes.
    """
    folder = cache / PREPARED
    if not folder.is_dir():
        return 0
    oldest, freed, kept = time.time() - keep_days * DAY_S, 0, 0
    with locked(folder / LOCK):
        used = {path: path.stat().st_mtime for path in folder.iterdir() if path.is_dir()}
        for path in sorted(used, key=lambda path: used[path], reverse=True):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            kept += size
            if used[path] < oldest or 0 < limit_bytes < kept:
                shutil.rmtree(path, ignore_errors=True)
                logger.info("swept the prepared data %s (%d bytes)", path.name, size)
                freed, kept = freed + size, kept - size
    return freed


def _place(source: Path, target: Path, names: Iterable[str]) -> None:
    """Link files, or copy them to another disk."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            if name in FACTS:
                shutil.copyfile(source / name, target / name)
            else:
                (target / name).hardlink_to(source / name)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source / name, target / name)


def _small_files(folder: Path) -> list[Path]:
    """Return a base's files except its weights: the tokenizer's, whatever their names."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in WEIGHTS)


def _suffix(path: str) -> str:
    """Return the end of a file's name, which selects its reader."""
    return "".join(Path(path).suffixes[-2:]).lower()


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
