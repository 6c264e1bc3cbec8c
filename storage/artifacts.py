"""Artifacts below one fsspec root: a folder counts once its manifest is there, and the manifest is uploaded last.

Nothing here relies on a rename on an object store. On a local root a folder is copied aside, flushed and renamed, so
that no reader ever sees half of one. Every URI must lie below the root, whoever wrote it. A remote store that fails
or is slow is asked again until a deadline (patience.py); a local disk is not.
"""

import errno
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

from ..settings.errors import CeloraError, DataError, DiskFullError, SettingsError, StorageError, UnavailableError
from ..settings.failpoints import hit
from .manifest import MANIFEST, files_below, verify_manifest
from .patience import PATIENCE_S, Patience

CHUNK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXTRAS = {
    "s3": "celora[s3]",
    "s3a": "celora[s3]",
    "gs": "celora[gcs]",
    "gcs": "celora[gcs]",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""What to install for a protocol."""

T = TypeVar("T")
OnBytes = Callable[[int], None]
"""Called with the number of bytes that were just read or written."""


class Artifacts:
    """Reads and writes below a root.

    Args:
        root: An fsspec URL: ``file:///…``, ``s3://bucket/prefix``, ``memory://…``.
        patience_s: Seconds that a remote store's errors are borne, what the bytes of a transfer take aside.

    Raises:
        SettingsError: Nothing speaks its protocol.
        UnavailableError: The part that speaks its protocol is not installed.
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
        """The URI of something below the root.

        Raises:
            StorageError: The names lead out of the root.
        """
        return self._inside("/".join((self.root, *names)))

    def local_path(self, uri: str) -> Path | None:
        """The path of an artifact on a local root, so that a reader may skip the copy; None on a remote one.

        Raises:
            StorageError: The URI does not lie below the root.
        """
        inside = self._inside(uri)
        return Path(inside.removeprefix("file://")) if self._local else None

    def holds(self, uri: str) -> bool:
        """Whether a URI lies below the root."""
        return uri.startswith(self.root + "/")

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        with self._translated(uri):
            return bool(self._patiently(uri, lambda: self._files.exists(uri)))

    def committed(self, uri: str) -> bool:
        """Whether a folder is there as a whole, which its manifest says."""
        return self.exists(f"{uri}/{MANIFEST}")

    def list_files(self, uri: str) -> list[str]:
        """Every file below a folder as a sorted relative path; none where there is no folder."""
        with self._translated(uri):
            base = str(self._files._strip_protocol(uri)).rstrip("/") + "/"  # noqa: SLF001  (fsspec's way to compare paths)
            found = self._patiently(uri, lambda: self._files.find(uri))
            return sorted(str(path).removeprefix(base) for path in found)

    def names(self, uri: str) -> list[str]:
        """The names right below a folder, sorted; none where there is no folder."""
        with self._translated(uri):
            try:
                found = self._patiently(uri, lambda: self._files.ls(uri, detail=False))
            except FileNotFoundError:
                return []
            return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def size_bytes(self, uri: str) -> int:
        """The size of a file, or of all files of a folder."""
        with self._translated(uri):
            return int(self._patiently(uri, lambda: self._files.du(uri)))

    def read_bytes(self, uri: str) -> bytes:
        """The content of one file."""
        with self._translated(uri):
            return bytes(self._patiently(uri, lambda: self._files.cat_file(uri)))

    def read_json(self, uri: str) -> Any:
        """The content of one JSON file.

        Raises:
            StorageError: It is not there, or no JSON.
        """
        try:
            return json.loads(self.read_bytes(uri))
        except ValueError as error:
            raise StorageError(f"{uri} is no JSON ({error}).") from error

    def put_file(self, path: Path, uri: str) -> None:
        """Upload one file; no reader sees half of it."""
        with self._translated(uri, need=lambda: path.stat().st_size):
            target = self.local_path(uri)
            if target is None:
                self._put(path, uri, self._patience.deadline(path.stat().st_size))
            else:
                with _staged(target) as staged:
                    _copy(path, staged)

    def get_file(self, uri: str, path: Path) -> None:
        """Download one file; no reader sees half of it."""
        size = 0 if self._local else self.size_bytes(uri)
        self._get(uri, path, self._patience.deadline(size))

    def _get(self, uri: str, path: Path, deadline: float) -> None:
        with self._translated(uri, onto=path), _staged(path) as staged:
            self._patiently(uri, lambda: self._files.get_file(uri, str(staged)), deadline)

    def put_folder(self, folder: Path, uri: str) -> None:
        """Upload a folder that has a manifest, replacing what stood there.

        Raises:
            StorageError: The folder is not what its manifest says, or the root can't be written to.
        """
        verify_manifest(folder)
        names = [*files_below(folder), MANIFEST]
        with self._translated(uri, need=lambda: sum((folder / name).stat().st_size for name in names)):
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
        """Download what a folder's manifest names, verify it, and return the manifest.

        Raises:
            StorageError: It is not there, was never finished, or is not what its manifest says.
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
        """Remove a file or a folder, the manifest first; nothing happens where nothing is."""
        with self._translated(uri):
            self._remove(uri)

    def import_dataset(self, path: Path) -> tuple[str, str]:
        """Take a copy of a dataset, named by its content; the same content twice is one copy.

        The content is hashed while it is copied, so that the name fits whatever happens to the file meanwhile.

        Returns:
            Its SHA-256 in hex, and its URI.

        Raises:
            DataError: There is no such file, or it can't be read.
        """
        incoming = self.uri("datasets", f".incoming-{uuid.uuid4().hex}")
        with self._translated(incoming, need=lambda: path.stat().st_size):
            try:
                digest = self._copy_in(path, incoming)
                uri = self.uri("datasets", digest, f"data{_container(path)}")
                if not self._files.exists(uri):
                    self._files.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
                    self._files.mv(incoming, uri)
            finally:
                with suppress(FileNotFoundError):
                    self._files.rm_file(incoming)
        return digest, uri

    def _copy_in(self, path: Path, uri: str) -> str:
        try:
            source = path.open("rb")
        except OSError as error:
            raise DataError(
                f"the dataset {path} can't be read: {error.strerror}.", hint="Give the path of a file that is there."
            ) from error
        digest = hashlib.sha256()
        self._files.makedirs(uri.rsplit("/", 1)[0], exist_ok=True)
        with source, self._files.open(uri, "wb") as target:
            while chunk := source.read(CHUNK_BYTES):
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
        """Make a call that may be repeated: on a remote store until a deadline, on a local disk once."""
        if self._local:
            return call()
        return self._patience.call(uri, call, self._patience.deadline() if deadline is None else deadline)

    def _inside(self, uri: str) -> str:
        below = uri.removeprefix(self.root + "/")
        if below == uri or ".." in PurePosixPath(below).parts or "\x00" in below:
            raise StorageError(f"{uri!r} does not lie below the artifact root {self.root}.")
        return uri

    @contextmanager
    def _translated(self, uri: str, need: Callable[[], int] | None = None, onto: Path | None = None) -> Generator[None]:
        self._inside(uri)
        self._files.invalidate_cache()  # other processes write here too
        try:
            yield
        except CeloraError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{uri} is not there ({error.filename or error}).") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise self._full(uri, need, onto) from error
            if self._local and not isinstance(error, OSError):
                raise
            # An object store's library raises errors of its own.
            hint = "Look at CELORA_ARTIFACT_ROOT and at its credentials." if not self._local else ""
            raise StorageError(f"{uri} can't be reached: {error}.", hint=hint) from error

    def _full(self, uri: str, need: Callable[[], int] | None, onto: Path | None) -> DiskFullError:
        wanted = f", {_mib(need())} needed" if need else ""
        path = onto or self.local_path(uri)
        if path is None:
            return DiskFullError(f"no space left for {uri}{wanted}.", hint="Free space there.")
        there = next(folder for folder in path.parents if folder.exists())
        free = shutil.disk_usage(there).free
        setting = "CELORA_HOME" if onto else "CELORA_ARTIFACT_ROOT"
        return DiskFullError(
            f"no space left for {path}{wanted}, {_mib(free)} free.",
            hint=f"Free space below {there}, or set {setting} to another place.",
        )


@contextmanager
def _staged(target: Path) -> Generator[Path]:
    """A name beside the target to write to; what was written there replaces the target at the end, or is removed."""
    staged = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield staged
        if staged.is_dir() and target.exists():
            shutil.rmtree(target)
            hit("upload.removed")
        staged.replace(target)
        hit("upload.renamed")
        _flush(target.parent)
    finally:
        if staged.is_dir():
            shutil.rmtree(staged)
        else:
            staged.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _flush(target)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _container(path: Path) -> str:
    """The end of a dataset's name, which says how it is read: ``.csv``, ``.jsonl.gz``; ``.jsonl`` where it has none."""
    return "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower() or ".jsonl"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
