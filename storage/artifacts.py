"""Artifacts below one fsspec root: a folder counts once its manifest is there, and the manifest is uploaded last."""

import errno
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from ..settings.errors import DiskFullError, StorageError, UnavailableError
from .manifest import MANIFEST, files_below, verify_manifest

_CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Artifacts:
    """Reads and writes below a root.

    Args:
        root: An fsspec URL: ``file:///…``, ``s3://bucket/prefix``, ``memory://…``.

    Raises:
        UnavailableError: The part that speaks its protocol is not installed.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._protocol = self.root.split("://", 1)[0] if "://" in self.root else "file"
        try:
            self._files: Any = fsspec.filesystem(self._protocol)  # pyright: ignore[reportUnknownMemberType]
        except (ImportError, ValueError) as error:
            raise UnavailableError(
                f"artifacts at {self.root} need a part that is not installed ({error}).",
                hint="Run `pip install 'celora[s3]'`, or set CELORA_ARTIFACT_ROOT to a file:// URL.",
            ) from error

    def uri(self, *names: str) -> str:
        """The URI of something below the root."""
        return "/".join((self.root, *names))

    def local_path(self, uri: str) -> Path | None:
        """The path of a local artifact, so that a reader may skip the copy; None for a remote one."""
        return Path(uri.removeprefix("file://")) if self._protocol == "file" else None

    def put_folder(self, folder: Path, uri: str) -> None:
        """Upload a folder that has a manifest, replacing what stood there."""
        verify_manifest(folder)
        target = self.local_path(uri)
        with _translated(uri):
            if target is not None:
                _copy_folder(folder, target)
                return
            if self._files.exists(uri):
                self._files.rm(uri, recursive=True)
            for name in (*files_below(folder), MANIFEST):
                self._files.put_file(str(folder / name), f"{uri}/{name}")

    def get_folder(self, uri: str, folder: Path) -> dict[str, Any]:
        """Download a folder and verify it; returns its manifest.

        Raises:
            StorageError: It is not there, was never finished, or is not what its manifest says.
        """
        with _translated(uri):
            if not self._files.exists(f"{uri}/{MANIFEST}"):
                raise StorageError(f"{uri} was never finished, or is gone.")
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._files.get(f"{uri}/", f"{folder}/", recursive=True)
        return verify_manifest(folder)

    def put_file(self, path: Path, uri: str) -> None:
        """Upload one file."""
        with _translated(uri):
            self._files.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
            self._files.put_file(str(path), uri)

    def get_file(self, uri: str, path: Path) -> None:
        """Download one file."""
        with _translated(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(uri, str(path))

    def import_dataset(self, path: Path) -> tuple[str, str]:
        """Take a copy of a dataset, named by its content.

        Returns:
            Its SHA-256 in hex, and its URI.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        name = "data.jsonl.gz" if path.suffix == ".gz" else "data.jsonl"
        uri = self.uri("datasets", digest.hexdigest(), name)
        if not self.exists(uri):
            self.put_file(path, uri)
        return digest.hexdigest(), uri

    def exists(self, uri: str) -> bool:
        """Whether something is there."""
        with _translated(uri):
            return bool(self._files.exists(uri))

    def size_bytes(self, uri: str) -> int:
        """The size of a file, or of all files of a folder."""
        with _translated(uri):
            return int(self._files.du(uri))

    def remove(self, uri: str) -> None:
        """Remove a file or a folder."""
        with _translated(uri):
            self._files.rm(uri, recursive=True)


def _copy_folder(folder: Path, target: Path) -> None:
    staged = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(folder, staged)
        verify_manifest(staged)
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"no space left for {uri}.", hint="Free some space there.") from error
        raise StorageError(f"{uri} cannot be reached: {error}.", hint="Look at CELORA_ARTIFACT_ROOT.") from error
