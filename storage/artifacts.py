"""Reads and writes artifacts below one fsspec root; a manifest, uploaded last, commits a folder.

The module relies on no rename on an object store. On a local root a folder is copied aside, flushed and renamed, so
that no reader sees a part of a folder. Every URI, of any origin, must lie below the root. Calls to a remote store
that fails or is slow are repeated until a deadline (retries.py); calls to a local disk are not.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from ..errors import CeloraError, DiskFullError, LimitError, SettingsError, StorageError, UnavailableError
from ..settings.failpoints import hit
from .disk_space import disk_full, existing, is_no_space
from .manifest import MANIFEST, files_below, flush, verify_manifest
from .regular_files import open_regular
from .retries import PATIENCE_S, Patience

CHUNK_BYTES = 1 << 20
EXTRAS = {
    "s3": "celora[s3]",
    "s3a": "celora[s3]",
    "gs": "celora[gcs]",
    "gcs": "celora[gcs]",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""The extra to install for a protocol."""

T = TypeVar("T")
OnBytes = Callable[[int], None]
"""Called with the number of bytes that were just read or written."""


class Artifacts:
    """Reads and writes below a root.

    Args:
        root: An fsspec URL: ``file:///…``, ``s3://bucket/prefix``, ``memory://…``.
        patience_s: Seconds of retries on a remote store, plus the time that the bytes of a transfer may take.

    Raises:
        SettingsError: No fsspec filesystem supports its protocol.
        UnavailableError: The package that supports its protocol is not installed.
    """

    def __init__(self, root: str, patience_s: float = PATIENCE_S) -> None:
        self._patience = Patience(patience_s)
        self.root = root.rstrip("/")
        protocol = self.root.split("://", 1)[0] if "://" in self.root else "file"
        self._local = protocol == "file"
        try:
            self._files: Any = fsspec.filesystem(protocol)  # pyright: ignore[reportUnknownMemberType]
        except ImportError as error:
            raise UnavailableError(
                f"artifacts at {self.root} need a part that is not installed ({error}).",
                hint=f'Run `pip install "{EXTRAS.get(protocol, protocol)}"`, or set CELORA_ARTIFACT_ROOT to a folder.',
            ) from error
        except ValueError as error:
            raise SettingsError(
                f"artifacts can't live at {self.root}: {error}.",
                hint="Set CELORA_ARTIFACT_ROOT to file:///a/folder or s3://bucket/prefix.",
            ) from error

    def uri(self, *names: str) -> str:
        """Return the URI of a name below the root.

        Raises:
            StorageError: The names lead out of the root.
        """
        return self._inside("/".join((self.root, *names)))

    def local_path(self, uri: str) -> Path | None:
        """Return the path of an artifact on a local root, where a reader needs no copy; None on a remote root.

        Raises:
            StorageError: The URI does not lie below the root.
        """
        inside = self._inside(uri)
        return Path(inside.removeprefix("file://")) if self._local else None

    def holds(self, uri: str) -> bool:
        """Return whether the URI lies below the root."""
        return uri.startswith(self.root + "/")

    def exists(self, uri: str) -> bool:
        """Return whether the file or folder exists."""
        with self.translated(uri):
            return bool(self._patiently(uri, lambda: self._files.exists(uri)))

    def committed(self, uri: str) -> bool:
        """Return whether the folder is complete, that is, has a manifest."""
        return self.exists(f"{uri}/{MANIFEST}")

    def list_files(self, uri: str) -> list[str]:
        """List every file below a folder by its relative path, sorted; empty where there is no folder."""
        with self.translated(uri):
            base = str(self._files._strip_protocol(uri)).rstrip("/") + "/"  # noqa: SLF001  (fsspec's way to compare paths)
            found = self._patiently(uri, lambda: self._files.find(uri))
            return sorted(str(path).removeprefix(base) for path in found)

    def names(self, uri: str) -> list[str]:
        """List the names directly below a folder, sorted; empty where there is no folder."""
        with self.translated(uri):
            try:
                found = self._patiently(uri, lambda: self._files.ls(uri, detail=False))
            except FileNotFoundError:
                return []
            return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def size_bytes(self, uri: str) -> int:
        """Return the size of a file, or of all files of a folder."""
        with self.translated(uri):
            return int(self._patiently(uri, lambda: self._files.du(uri)))

    def read_bytes(self, uri: str) -> bytes:
        """Read one file."""
        with self.translated(uri):
            return bytes(self._patiently(uri, lambda: self._files.cat_file(uri)))

    def read_json(self, uri: str) -> Any:
        """Read one JSON file.

        Raises:
            StorageError: The file is missing or holds no JSON.
        """
        try:
            return json.loads(self.read_bytes(uri))
        except ValueError as error:
            raise StorageError(f"{uri} is no JSON ({error}).") from error

    def put_file(self, path: Path, uri: str) -> None:
        """Upload one file; no reader sees a part of it."""
        with self.translated(uri, need=lambda: path.stat().st_size):
            target = self.local_path(uri)
            if target is None:
                self._put(path, uri, self._patience.deadline(path.stat().st_size))
            else:
                with _staged(target) as staged:
                    _copy(path, staged)

    def get_file(self, uri: str, path: Path) -> None:
        """Download one file; no reader sees a part of it."""
        size = 0 if self._local else self.size_bytes(uri)
        self._get(uri, path, self._patience.deadline(size))

    def _get(self, uri: str, path: Path, deadline: float) -> None:
        with self.translated(uri, onto=path), _staged(path) as staged:
            self._patiently(uri, lambda: self._files.get_file(uri, str(staged)), deadline)

    def put_folder(self, folder: Path, uri: str) -> None:
        """Upload a folder that has a manifest, replacing an older folder.

        Raises:
            StorageError: The folder differs from its manifest, or the root can't be written to.
        """
        verify_manifest(folder)
        names = [*files_below(folder), MANIFEST]
        with self.translated(uri, need=lambda: sum((folder / name).stat().st_size for name in names)):
            target = self.local_path(uri)
            if target is not None:
                with _staged(target) as staged:
                    for name in names:
                        (staged / name).parent.mkdir(parents=True, exist_ok=True)
                        _copy(folder / name, staged / name)
                        hit("upload.file")
                    hit("upload.staged")
                return
            self._remove(uri)
            deadline = self._patience.deadline(sum((folder / name).stat().st_size for name in names))
            for name in names:
                self._put(folder / name, f"{uri}/{name}", deadline)
                hit("upload.file")

    def get_folder(self, uri: str, folder: Path, on_bytes: OnBytes | None = None) -> dict[str, Any]:
        """Download the files that a folder's manifest names, verify them, and return the manifest.

        Raises:
            StorageError: The folder is missing, was never finished, or differs from its manifest.
        """
        if not self.committed(uri):
            raise StorageError(f"{uri} was never finished, or is gone.")
        manifest: dict[str, Any] = self.read_json(f"{uri}/{MANIFEST}")
        sizes = {str(entry["name"]): int(entry["size_bytes"]) for entry in manifest["files"]}
        deadline = self._patience.deadline(sum(sizes.values()))
        for name in (*sizes, MANIFEST):
            self._get(self._inside(f"{uri}/{name}"), folder / name, deadline)
            if on_bytes is not None:
                on_bytes(sizes.get(name, 0))
        return verify_manifest(folder)

    def remove(self, uri: str) -> None:
        """Remove a file or a folder, the manifest first; do nothing where neither exists."""
        with self.translated(uri):
            self._remove(uri)

    def import_dataset(self, path: Path, most_bytes: int = 0) -> tuple[str, str]:
        """Copy a dataset into the artifacts, named by its content; equal content is stored once.

        The content is hashed while it is copied, so that the name is right even if the file changes meanwhile.

        Args:
            path: The file.
            most_bytes: Its largest size; 0 sets none.

        Returns:
            Its SHA-256 in hex, and its URI.

        Raises:
            DataError: There is no such file, or it can't be read.
            LimitError: The file is larger than ``most_bytes``, or grew beyond it during the copy.
        """
        incoming = self.uri("datasets", f".incoming-{uuid.uuid4().hex}")
        with self.translated(incoming, need=lambda: path.stat().st_size):
            try:
                digest = self._copy_in(path, incoming, most_bytes)
                uri = self.uri("datasets", digest, f"data{_container(path)}")
                if not self._files.exists(uri):
                    self._files.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
                    self._files.mv(incoming, uri)
            finally:
                with suppress(FileNotFoundError):
                    self._files.rm_file(incoming)
        return digest, uri

    def open_new(self, uri: str) -> Any:
        """Open a new file to write it, as a context of ``translated``; the caller closes it."""
        self._files.makedirs(self._inside(uri).rsplit("/", 1)[0], exist_ok=True)
        return self._files.open(uri, "wb")

    def move_new(self, uri: str, to: str) -> None:
        """Give a whole file its place, unless equal content is there already."""
        if not self._files.exists(self._inside(to)):
            self._files.makedirs(to.rsplit("/", 1)[0], exist_ok=True)
            self._files.mv(self._inside(uri), to)
            return
        self._files.rm_file(self._inside(uri))

    def read_parts(self, uri: str) -> Generator[bytes]:
        """Read one file in parts.

        Raises:
            StorageError: It is missing, or can't be read.
        """
        with self.translated(uri), self._files.open(uri, "rb") as source:
            while part := source.read(CHUNK_BYTES):
                yield part

    def _copy_in(self, path: Path, uri: str, most_bytes: int) -> str:
        digest, left = hashlib.sha256(), most_bytes
        self._files.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
        with open_regular(path) as source, self._files.open(uri, "wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                left -= len(chunk)
                if most_bytes and left < 0:
                    raise _too_large(path, most_bytes)
                digest.update(chunk)
                target.write(chunk)
            if self._local:
                target.flush()
                os.fsync(target.fileno())
        return digest.hexdigest()

    def _remove(self, uri: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            self._patiently(uri, lambda: self._files.rm_file(f"{uri}/{MANIFEST}"))
        with suppress(FileNotFoundError):
            self._patiently(uri, lambda: self._files.rm(uri, recursive=True))

    def _put(self, path: Path, uri: str, deadline: float) -> None:
        self._patiently(uri, lambda: self._files.put_file(str(path), uri), deadline)

    def _patiently(self, uri: str, call: Callable[[], T], deadline: float | None = None) -> T:
        """Make a call that is safe to repeat: on a remote store until a deadline, on a local disk once."""
        if self._local:
            return call()
        return self._patience.call(uri, call, self._patience.deadline() if deadline is None else deadline)

    def _inside(self, uri: str) -> str:
        below = uri.removeprefix(self.root + "/")
        if below == uri or ".." in PurePosixPath(below).parts or "\x00" in below:
            raise StorageError(f"{uri!r} does not lie below the artifact root {self.root}.")
        return uri

    @contextmanager
    def translated(self, uri: str, need: Callable[[], int] | None = None, onto: Path | None = None) -> Generator[None]:
        """Turn the errors of the storage into celora's, within a block that uses the URI.

        Args:
            uri: The artifact, which must lie below the root.
            need: Returns the bytes that the block writes, for the message of a full disk.
            onto: The local file that the block writes, where it does not write the artifact.

        Raises:
            StorageError: The storage failed, or the URI does not lie below the root.
            DiskFullError: No space is left.
        """
        self._inside(uri)
        self._files.invalidate_cache()  # other processes write to this root too
        try:
            yield
        except CeloraError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{uri} is not there ({error.filename or error}).") from error
        except Exception as error:
            if is_no_space(error):
                raise self._full(uri, need, onto) from error
            if self._local and not isinstance(error, OSError):
                raise
            # An object store's library raises errors of its own.
            hint = "Look at CELORA_ARTIFACT_ROOT and at its credentials." if not self._local else ""
            raise StorageError(f"{uri} can't be reached: {error}.", hint=hint) from error

    def _full(self, uri: str, need: Callable[[], int] | None, onto: Path | None) -> DiskFullError:
        path, need_bytes = onto or self.local_path(uri), need() if need else 0
        if path is None:
            wanted = f": {need_bytes / 2**20:.1f} MiB needed" if need_bytes else ""
            return DiskFullError(f"no space left at {uri}{wanted}.", hint="Free space there.")
        setting = "CELORA_HOME" if onto else "CELORA_ARTIFACT_ROOT"
        hint = f"Free space below {existing(path.parent)}, or set {setting} to another place."
        return disk_full(path, need_bytes=need_bytes, hint=hint)


@contextmanager
def _staged(target: Path) -> Generator[Path]:
    """Yield a name beside the target; at the end its content replaces the target, or is removed after an error."""
    staged = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield staged
        if staged.is_dir() and target.exists():
            shutil.rmtree(target)
            hit("upload.removed")
        staged.replace(target)
        hit("upload.renamed")
        flush(target.parent)
    finally:
        if staged.is_dir():
            shutil.rmtree(staged)
        else:
            staged.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    flush(target)


def _too_large(path: Path, most_bytes: int) -> LimitError:
    return LimitError(
        f"the dataset {path} is larger than {most_bytes / 2**30:.3g} GiB.",
        hint="Split it, or let an operator raise CELORA_PREPARE_FILE_BYTES.",
    )


def _container(path: Path) -> str:
    """Return the suffix of a dataset's name, which selects its reader: ``.csv``, ``.jsonl.gz``; default ``.jsonl``."""
    return "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower() or ".jsonl"
