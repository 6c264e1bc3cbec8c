"""Commits a folder by a manifest, which is written last; a folder without a valid manifest does not count.

Files and folders are flushed to the disk before the manifest, and the manifest before the folder is renamed into its
place. A crash at any point therefore leaves either the whole folder or no folder with a valid manifest.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..settings.failpoints import hit

MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """List all files below the folder except its manifest, as sorted relative POSIX paths."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() != MANIFEST
    )


def write_manifest(folder: Path, **facts: Any) -> dict[str, Any]:
    """Flush every file of the folder and write its manifest: name, size and SHA-256 of each, and the given facts."""
    entries: list[dict[str, Any]] = []
    for name in files_below(folder):
        path = folder / name
        _flush(path)
        entries.append({"name": name, "size_bytes": path.stat().st_size, "sha256": file_sha256(path)})
    manifest = {**facts, "files": entries}
    target = folder / MANIFEST
    target.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    _flush(target)
    _flush(folder)
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest and compare every file with it.

    Raises:
        StorageError: There is no manifest, or a file is missing, cut or changed; the message names the file.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = [(folder / entry["name"], entry["size_bytes"], entry["sha256"]) for entry in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder} has no readable manifest ({error}); it was never finished.") from error
    for path, size_bytes, sha256 in entries:
        if not path.is_file() or path.stat().st_size != size_bytes:
            raise StorageError(f"{path} is missing or has another size than its manifest says.")
        if file_sha256(path) != sha256:
            raise StorageError(f"{path} has another content than its manifest says.")
    return manifest


def commit(staged: Path, final: Path, **facts: Any) -> dict[str, Any]:
    """Write the manifest of a staged folder and rename the folder into its place, replacing an older one."""
    hit("commit.staged")
    manifest = write_manifest(staged, **facts)
    hit("commit.manifest")
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    hit("commit.renamed")
    _flush(final.parent)
    return manifest


def flush(path: Path) -> None:
    """Wait until the bytes of a file, or the names of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush(path: Path) -> None:
    hit("commit.flush")
    flush(path)
