"""The cache of base models on this machine: converted and quantized copies, and what the hub sent.

A copy is made aside, under a file lock, and counts once its manifest is there: two processes never make it twice, and
a killed one leaves nothing that anybody would take for a base. Copies are judged by their manifest and their files'
sizes, not by hashing gigabytes before each load.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..settings.errors import DiskFullError, NotFoundError, UnavailableError
from ..storage.manifest import MANIFEST, commit

logger = logging.getLogger(__name__)

DAY_S = 86400
CONVERTED = "converted"
QUANTIZED = "quantized"
HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class QuantizedCopy:
    """A stored quantized copy of a base.

    Attributes:
        path: Its folder.
        size_bytes: What it takes on the disk.
        settings: Quantization type, double quantization, compute dtype.
        unquantized: Names of the linear layers that stayed as they were.
    """

    path: Path
    size_bytes: int
    settings: dict[str, Any]
    unquantized: list[str]


@dataclass(frozen=True, kw_only=True)
class CachedBase:
    """A base model that this machine holds.

    Attributes:
        name: The hub id, the catalogue's name or the source's path.
        kind: ``hub``, ``catalogue``, ``gguf`` or ``folder``.
        revision: The hub's commit, or ``sha256:…`` of the files.
        size_bytes: What the cache holds of it without the quantized copies; 0 for a folder of the user's own.
        path: The folder with its weights.
        quantized: Its stored quantized copies.
    """

    name: str
    kind: str
    revision: str
    size_bytes: int
    path: Path
    quantized: tuple[QuantizedCopy, ...] = ()


def stored(final: Path, make: Callable[[Path], dict[str, Any]]) -> Path:
    """A folder of the cache, made on first use.

    Args:
        final: The folder.
        make: Fills the empty folder that it is given and returns the facts for the manifest.

    Raises:
        DiskFullError: The cache's disk is full; nothing is left behind.
    """
    if is_whole(final):
        used(final)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final):
        if is_whole(final):  # another process was faster
            return final
        staged = final.with_name(f".staged-{final.name}")
        shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
        staged.mkdir()
        try:
            commit(staged, final, **make(staged))
        except Exception as error:
            if _disk_is_full(error):
                free = shutil.disk_usage(final.parent).free / 2**30
                raise DiskFullError(
                    f"the disk of {final.parent} is full ({free:.1f} GiB free); no copy of the base could be stored.",
                    hint="Free space there, or remove a base: celora bases remove NAME",
                ) from error
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return final


def is_whole(folder: Path) -> bool:
    """Whether a copy was committed and each of its files still has its size."""
    facts = _facts(folder)
    return facts is not None and all(
        (folder / entry["name"]).is_file() and (folder / entry["name"]).stat().st_size == entry["size_bytes"]
        for entry in facts["files"]
    )


def cached(cache: Path) -> list[CachedBase]:
    """Every base of the cache with its quantized copies, by name."""
    copies: dict[tuple[str, str], list[QuantizedCopy]] = {}
    bases: dict[tuple[str, str], CachedBase] = {}
    for folder, facts in _committed(cache / QUANTIZED):
        key = (facts["name"], facts["revision"])
        copy = QuantizedCopy(
            path=folder, size_bytes=_size(folder), settings=facts["settings"], unquantized=facts["unquantized"]
        )
        copies.setdefault(key, []).append(copy)
        bases[key] = CachedBase(
            name=key[0], kind=facts["kind"], revision=key[1], size_bytes=0, path=Path(facts["source"])
        )
    for folder, facts in _committed(cache / CONVERTED):
        key = (facts["name"], facts["revision"])
        bases[key] = CachedBase(name=key[0], kind=facts["kind"], revision=key[1], size_bytes=_size(folder), path=folder)
    for base in _from_hub(cache):
        bases[base.name, base.revision] = base
    return [replace(base, quantized=tuple(copies.get(key, ()))) for key, base in sorted(bases.items())]


def remove(cache: Path, name: str) -> int:
    """Remove a base with its copies from the cache; a user's own folder or file is never touched.

    Returns:
        The bytes that became free.

    Raises:
        NotFoundError: The cache holds no such base.
        UnavailableError: A copy of it is being made.
    """
    found = [base for base in cached(cache) if base.name == name]
    if not found:
        names = sorted({base.name for base in cached(cache)})
        raise NotFoundError(
            f"the cache holds no base named {name}; it holds {', '.join(names) or 'none'}.",
            hint="List them: celora bases list",
        )
    for base in found:
        folders = [copy.path for copy in base.quantized]
        if base.kind == "hub" and base.size_bytes:
            _remove_from_hub(cache, base.revision)
        elif base.path.parent == cache / CONVERTED:
            folders.append(base.path)
        for folder in folders:
            _remove_folder(folder)
    return sum(base.size_bytes + sum(copy.size_bytes for copy in base.quantized) for base in found)


def extent(folder: Path) -> tuple[int, float]:
    """Size in bytes and the time of the last change of a folder and everything in it, Unix seconds."""
    stats: list[os.stat_result] = []
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):  # its owner is at work
            stats.append(path.lstat())
    return sum(found.st_size for found in stats), max((found.st_mtime for found in stats), default=0.0)


def sweep(cache: Path, keep_days: float, limit_bytes: int, needed: Collection[str]) -> int:
    """Remove bases and copies that nobody used for so long, and the longest unused above a size.

    Args:
        cache: The installation's cache.
        keep_days: Days since the last use, which each load marks at the folder.
        limit_bytes: Size of what may stay; 0: no limit.
        needed: Names of bases that are left alone.

    Returns:
        The bytes that became free.
    """
    found: list[tuple[float, int, Path, CachedBase]] = []
    for base in cached(cache):
        own = [(base.path, base.size_bytes)] if base.size_bytes else []
        for path, size in [*own, *((copy.path, copy.size_bytes) for copy in base.quantized)]:
            found.append((path.stat().st_mtime, size, path, base))
    oldest, freed, kept = time.time() - keep_days * DAY_S, 0, 0
    for used_at, size, path, base in sorted(found, key=lambda each: (each[3].name in needed, each[0]), reverse=True):
        kept += size
        if base.name in needed or not (used_at < oldest or 0 < limit_bytes < kept):
            continue
        if cache / HUB in path.parents:
            _remove_from_hub(cache, base.revision)
        else:
            try:
                _remove_folder(path)
            except UnavailableError as error:
                logger.info("the base %s stays: %s", base.name, error)
                continue
        logger.info("swept %s of the base %s (%d bytes)", path, base.name, size)
        freed, kept = freed + size, kept - size
    return freed


def used(folder: Path) -> None:
    """Mark a folder's last use, by which ``sweep`` goes; a cache that may only be read is left as it is."""
    with suppress(PermissionError):
        os.utime(folder)


def _from_hub(cache: Path) -> list[CachedBase]:
    if not (cache / HUB).is_dir():
        return []
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415  (an optional part; and half a second)

    return [
        CachedBase(
            name=repo.repo_id,
            kind="hub",
            revision=revision.commit_hash,
            size_bytes=revision.size_on_disk,
            path=revision.snapshot_path,
        )
        for repo in scan_cache_dir(cache / HUB).repos
        for revision in repo.revisions
    ]


def _remove_from_hub(cache: Path, commit_hash: str) -> None:
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415  (as above)

    scan_cache_dir(cache / HUB).delete_revisions(commit_hash).execute()


def _remove_folder(folder: Path) -> None:
    """Renamed first, so that nobody finds half of it; who has it open keeps reading."""
    try:
        with _locked(folder, wait=False):
            gone = folder.with_name(f".removed-{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)
    except BlockingIOError:
        raise UnavailableError(
            f"{folder} is being made by another process right now.", hint="Try again when its job is training."
        ) from None


def _committed(parent: Path) -> list[tuple[Path, dict[str, Any]]]:
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    found = [(folder, _facts(folder)) for folder in folders if not folder.name.startswith(".")]
    return [(folder, facts) for folder, facts in found if facts is not None]


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never finished: as good as absent
        return None


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Generator[None]:
    """One process at a time for this folder; the system lets go of the lock when its process ends, however it ends."""
    with folder.with_name(f".{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _disk_is_full(error: BaseException) -> bool:
    """Also as safetensors reports it, which is no OSError."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "os error 28" in str(error)
