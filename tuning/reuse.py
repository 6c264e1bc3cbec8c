"""Prepared data is made once: a cache below the installation's own, found by everything that shapes it.

The key is the digest of the files' contents, the base with its tokenizer's files, the settings that change a token, and
the versions of the libraries that make them; it is known before any of those libraries is loaded, so that a second run
takes the time of hashing the files. What does not change a token (rank, learning rate) is no part of it: whoever reuses
an entry fits the estimates to his own recipe.

An entry is a folder with a manifest, verified at each use, and its files are hard links where the disk allows it. Only
``sweep`` removes one, some days after its last use; a damaged one is thrown away and made anew.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ..settings.errors import StorageError
from ..storage.manifest import MANIFEST, file_sha256, files_below, verify_manifest
from .protocol import Base, Emit, PrepareRequest
from .weights import file_digest

logger = logging.getLogger(__name__)

PREPARED = "prepared"
DAY_S = 86400
FACTS = frozenset({"prepared.json", "receipt.json", MANIFEST})
"""Files that differ between a run and its reuse."""

LAYOUT = 1
"""Raised when ``prepare`` writes something else from the same input."""

LIBRARIES = ("celora", "jinja2", "tokenizers", "transformers")
PRIVATE = frozenset(
    {"v", "op", "job", "attempt", "cache_dir", "hub", "threads", "limits", "out_dir", "sources"}
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
    | {"eval_steps", "save_steps", "save_minutes", "report_to", "max_length"}
)
"""Fields of a recipe that change no token; ``max_length`` goes in resolved."""

TRAIN = "train"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")


class Store:
    """What the cache holds of one request's data.

    Args:
        request: What is to be prepared. Files that are none (a folder, a missing one) are left for their reader to
            refuse.

    Attributes:
        hashes: SHA-256 of each set's file.
    """

    def __init__(self, request: PrepareRequest) -> None:
        self._request = request
        self._folder = Path(request.cache_dir) / PREPARED
        paths = {TRAIN: request.dataset, **request.eval_datasets}
        self.hashes = {name: file_sha256(Path(path)) for name, path in paths.items() if Path(path).is_file()}
        self._data_key = _digest(
            {
                "layout": LAYOUT,
                "libraries": {name: _version(name) for name in LIBRARIES},
                "files": [[name, self.hashes.get(name), _suffix(path)] for name, path in paths.items()],
                "settings": request.model_dump(mode="json", exclude=set(PRIVATE)),
                "recipe": request.recipe.model_dump(mode="json", exclude=set(TRAINING)),
                "seed": request.seed if request.eval_fraction and not request.eval_datasets else None,
            }
        )

    @property
    def seen(self) -> bool:
        """Whether these very rows were prepared with these settings, for any base: they are known to be good."""
        return any(self._folder.glob(f"{self._data_key}-*"))

    def entry(self, base: Base, base_folder: Path, max_length: int) -> "Entry":
        """The place for a base, which need not be there; ``max_length`` is the resolved one."""
        cache = Path(self._request.cache_dir)
        facts = {
            "base": base.model_dump(mode="json", exclude={"source"}),
            "tokenizer": {path.name: file_digest(path, cache) for path in _small_files(base_folder)},
            "max_length": max_length,
        }
        return Entry(self._folder / f"{self._data_key}-{_digest(facts)}")


class Entry:
    """One prepared set of data in the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, staged: Path, emit: Emit) -> bool:
        """Put the entry's files into an empty folder, those of its facts (``FACTS``) as copies that may be changed.

        Returns:
            False where there is no entry, or a damaged one, which is removed.
        """
        if not self.folder.is_dir():
            return False
        with _locked(self.folder.parent, shared=True):
            try:
                names = [str(entry["name"]) for entry in verify_manifest(self.folder)["files"]]
            except StorageError as error:
                reason = str(error)
            else:
                _place(self.folder, staged, names)
                os.utime(self.folder)  # its last use, for sweep
                return True
        emit("note", level="warning", message=f"prepared data in the cache is damaged and is made anew: {reason}")
        with _locked(self.folder.parent):
            shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def keep(self, prepared: Path, emit: Emit) -> None:
        """Store a committed prepared folder; where there is no room, only a note is left."""
        aside = self.folder.with_name(f".{self.folder.name}-{uuid.uuid4().hex[:8]}")
        try:
            aside.mkdir(parents=True)
            _place(prepared, aside, [*files_below(prepared), MANIFEST])
            with _locked(self.folder.parent):
                if not self.folder.exists():  # somebody else may have been faster
                    aside.rename(self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
                raise
            emit("note", level="warning", message=f"the prepared data can't be kept for reuse: {error.strerror}")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def sweep(cache: Path, keep_days: float, limit_bytes: int = 0) -> int:
    """Remove entries that nobody used for so long, the longest unused above a size, and what killed processes left.

    Args:
        cache: The installation's cache.
        keep_days: Days since the last use.
        limit_bytes: Size of what may stay; 0: no limit.

    Returns:
        The bytes that became free.
    """
    folder = cache / PREPARED
    if not folder.is_dir():
        return 0
    oldest, freed, kept = time.time() - keep_days * DAY_S, 0, 0
    with _locked(folder):
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
    """A base's files but its weights: the tokenizer's, whatever they are called."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in WEIGHTS)


def _suffix(path: str) -> str:
    """The end of a file's name, which says how it is read."""
    return "".join(Path(path).suffixes[-2:]).lower()


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@contextmanager
def _locked(folder: Path, *, shared: bool = False) -> Generator[None]:
    """Alone in the cache, or with other readers; the lock ends with its process, however that ends."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
