"""Stores base models on this machine: converted and quantized copies, and files fetched from a hub.

A copy is made in a temporary folder, under a file lock, and is valid once it has a manifest. So two processes never
make the same copy, and a killed process leaves nothing that could be mistaken for a base. A copy is checked by its
manifest and the sizes of its files; hashing gigabytes before each load would cost more than the load. huggingface_hub
owns the copies from a hub: it lists and deletes them itself.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from ...errors import NotFoundError, UnavailableError
from ...storage.disk_space import room
from ...storage.file_lock import locked, locked_if_free
from ...storage.manifest import MANIFEST, commit

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo

logger = logging.getLogger(__name__)

DAY_S = 86400
CONVERTED = "converted"
QUANTIZED = "quantized"
HUB = "hub"
FULL_HINT = "Free space there, or remove a base: celora bases remove NAME"

Form = Literal["converted", "quantized", "hub"]
Facts = Mapping[str, object]
"""Entries of a copy's manifest beside its files: name, kind, revision, source; settings too in a quantized copy."""


@dataclass(frozen=True, kw_only=True)
class CachedCopy:
    """One copy of a base model in the cache.

    Attributes:
        name: The hub id, the catalogue's name or the source's path.
        form: ``converted``, ``quantized`` or ``hub``.
        revisions: The hub's commits, or the ``sha256:…`` of the source files of the copy.
        source: The base as a caller wrote it.
        size_bytes: The copy's size on the disk.
        path: The copy's folder.
    """

    name: str
    form: Form
    revisions: tuple[str, ...]
    source: str
    size_bytes: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A unit that ``sweep`` removes: a copy's folder, or one commit of a hub's repository."""

    name: str
    path: Path
    size_bytes: int
    commit: str | None = None


class _File(TypedDict):
    name: str
    size_bytes: int


class _Manifest(TypedDict):
    files: list[_File]
    name: NotRequired[str]
    revision: NotRequired[str]
    source: NotRequired[str]


def stored(final: Path, make: Callable[[Path], Facts]) -> Path:
    """Make a folder of the cache on first use.

    Args:
        final: The folder.
        make: Fills the empty folder that it is given and returns the facts for the manifest.

    Raises:
        DiskFullError: The cache's disk is full; no partial folder remains.
    """
    if is_whole(final):
        used(final)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(final)):
        if is_whole(final):  # another process made it first
            return final
        staged = final.with_name(f".staged-{final.name}")
        shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
        staged.mkdir()
        try:
            with room(final.parent, what="a copy of the base", hint=FULL_HINT):
                commit(staged, final, **make(staged))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return final


def is_whole(folder: Path) -> bool:
    """Return whether a copy was committed and each of its files still has its recorded size."""
    manifest = _manifest(folder)
    return manifest is not None and all(
        (folder / file["name"]).is_file() and (folder / file["name"]).stat().st_size == file["size_bytes"]
        for file in manifest["files"]
    )


def copies(cache: Path) -> list[CachedCopy]:
    """Return every finished copy in the cache, by name and form.

    Raises:
        UnavailableError: The cache holds files of a hub, and huggingface_hub is not installed.
    """
    found = [copy for form in (CONVERTED, QUANTIZED) for copy in _made(cache, form)]
    return sorted([*found, *_fetched(cache)], key=lambda copy: (copy.name, copy.form))


def remove(cache: Path, name: str) -> list[CachedCopy]:
    """Remove every copy of a base; a user's own folder or file is never touched.

    No copy is removed before the locks of all of them are held.

    Args:
        cache: The installation's cache.
        name: The name or the source of the base.

    Returns:
        The removed copies.

    Raises:
        NotFoundError: The cache holds no such base.
        UnavailableError: A copy of the base is being made; nothing was removed.
    """
    found = [copy for copy in copies(cache) if name in (copy.name, copy.source)]
    if not found:
        raise NotFoundError(f"no base model {name} is cached in {cache}.", hint="See `celora bases`.")
    _remove_folders([copy.path for copy in found if copy.form != HUB])
    _remove_from_hub(cache, [commit for copy in found if copy.form == HUB for commit in copy.revisions])
    return found


def sweep(cache: Path, keep_days: float, limit_bytes: int, needed: Collection[str]) -> int:
    """Remove copies that were unused for ``keep_days``, then the least recently used ones above a total size.

    Args:
        cache: The installation's cache.
        keep_days: Days since the last use; each load records its use in the folder's modification time.
        limit_bytes: Largest total size of the copies that stay; 0: no limit.
        needed: Names of bases that are never removed.

    Returns:
        The number of freed bytes.
    """
    parts = [(part.path.stat().st_mtime, part) for part in _parts(cache)]
    oldest, freed, kept = time.time() - keep_days * DAY_S, 0, 0
    for used_at, part in sorted(parts, key=lambda each: (each[1].name in needed, each[0]), reverse=True):
        kept += part.size_bytes
        if part.name in needed or not (used_at < oldest or 0 < limit_bytes < kept):
            continue
        try:
            _remove_part(cache, part)
        except UnavailableError as error:
            logger.info("the base %s stays: %s", part.name, error)
            continue
        logger.info("swept %s of the base %s (%d bytes)", part.path, part.name, part.size_bytes)
        freed, kept = freed + part.size_bytes, kept - part.size_bytes
    return freed


def extent(folder: Path) -> tuple[int, float]:
    """Return the size of a folder's whole content in bytes, and the time of the last change in it (Unix seconds)."""
    stats: list[os.stat_result] = []
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):  # another process changes the folder meanwhile
            stats.append(path.lstat())
    return sum(found.st_size for found in stats), max((found.st_mtime for found in stats), default=0.0)


def used(folder: Path) -> None:
    """Record the use of a folder, which ``sweep`` reads; a read-only cache stays unchanged."""
    with suppress(PermissionError):
        os.utime(folder)


def _made(cache: Path, form: Form) -> Iterator[CachedCopy]:
    parent = cache / form
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        manifest = None if folder.name.startswith(".") else _manifest(folder)
        if manifest is not None:
            yield CachedCopy(
                name=manifest.get("name", folder.name),
                form=form,
                revisions=(manifest.get("revision", ""),),
                source=manifest.get("source", ""),
                size_bytes=_size(folder),
                path=folder,
            )


def _fetched(cache: Path) -> Iterator[CachedCopy]:
    scanned = _scanned(cache)
    for repo in scanned.repos if scanned else ():
        yield CachedCopy(
            name=repo.repo_id,
            form=HUB,
            revisions=tuple(sorted(revision.commit_hash for revision in repo.revisions)),
            source=repo.repo_id,
            size_bytes=repo.size_on_disk,
            path=repo.repo_path,
        )


def _parts(cache: Path) -> Iterator[_Part]:
    for form in (CONVERTED, QUANTIZED):
        for copy in _made(cache, form):
            yield _Part(name=copy.name, path=copy.path, size_bytes=copy.size_bytes)
    scanned = _scanned(cache)
    for repo in scanned.repos if scanned else ():
        for revision in repo.revisions:
            yield _Part(
                name=repo.repo_id,
                path=revision.snapshot_path,
                size_bytes=revision.size_on_disk,
                commit=revision.commit_hash,
            )


def _remove_part(cache: Path, part: _Part) -> None:
    if part.commit is None:
        _remove_folders([part.path])
    else:
        _remove_from_hub(cache, [part.commit])


def _scanned(cache: Path) -> "HFCacheInfo | None":
    """Return huggingface_hub's scan of the hub's files; None where there are none."""
    if not (cache / HUB).is_dir() or not any((cache / HUB).glob("models--*")):
        return None
    try:
        from huggingface_hub import scan_cache_dir  # noqa: PLC0415  (an optional part; and half a second)
    except ImportError:
        raise UnavailableError(
            f"the files of a hub in {cache / HUB} are read with huggingface_hub, which is not installed.",
            hint="Run: pip install 'celora[train]'",
        ) from None
    return scan_cache_dir(cache / HUB)


def _remove_from_hub(cache: Path, commits: list[str]) -> None:
    scanned = _scanned(cache) if commits else None
    if scanned:
        scanned.delete_revisions(*commits).execute()


def _remove_folders(folders: Iterable[Path]) -> None:
    """Remove folders; each is renamed first, so that no process loads half of it. Open files stay readable."""
    with ExitStack() as locks:
        for folder in (folders := list(folders)):
            if locks.enter_context(locked_if_free(lock_of(folder))) is None:
                raise UnavailableError(
                    f"{folder} is being made by another process right now.", hint="Try again when its job is training."
                )
        for folder in folders:
            gone = folder.with_name(f".removed-{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)


def _manifest(folder: Path) -> _Manifest | None:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never finished: as good as absent
        return None


def lock_of(folder: Path) -> Path:
    """Return the file that a process locks while it makes or removes this copy."""
    return folder.with_name(f".{folder.name}.lock")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
