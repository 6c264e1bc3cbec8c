"""Opens a dataset file as bytes: a plain file, or a gzip that is unpacked under limits.

A gzip can hold a thousand times its size. Unpacking stops at a ratio or a size that no honest dataset has, whatever
size the reader asks for, so that a bomb costs neither memory nor time. Only a regular file is ever opened: a pipe or a
device would block, or never end.
"""

import gzip
import io
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from ...errors import DataError, LimitError

GZIP = b"\x1f\x8b"
MAX_RATIO = 200
"""Unpacked bytes a packed byte. JSON rows of text reach 3 to 20; one row that is repeated reaches 100."""
FREE_BYTES = 16 * 2**20
"""The ratio is checked from this size on; below it, even the worst gzip (1032 to 1) is harmless."""
MAX_UNPACKED_BYTES = 64 * 2**30
ARCHIVES = {
    b"PK\x03\x04": ("a zip archive", "unzip it"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it: zstd -d"),
    b"BZh": ("compressed with bzip2", "unpack it: bunzip2"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it: unxz"),
    b"\x89HDF": ("an HDF5 file", "export it as .jsonl"),
    b"ARROW1": ("an Arrow file", "export it as .parquet or .jsonl"),
    b"SQLite format 3": ("an SQLite database", "export it as .csv"),
}


@contextmanager
def opened(path: Path) -> Generator[IO[bytes]]:
    """Opens a file as bytes and unpacks a gzip; every failure while the bytes are read becomes a DataError.

    Raises:
        DataError: The file does not exist, is a folder, a device or an archive, is unreadable or is a damaged gzip.
        LimitError: The file unpacks to more bytes than allowed.
    """
    file: IO[bytes] | None = None
    try:
        file = _open(path)
        yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        at = f"after byte {file.tell()} of what it holds" if file is not None else "at byte 1"
        raise DataError(
            f"{path} is a damaged gzip file ({at}: {error}).",
            hint="Test it with `gzip -t`, and write or copy it again.",
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}).", hint="Check the path and its permissions."
        ) from None
    finally:
        if file is not None:
            file.close()


def position(file: IO[bytes]) -> int:
    """Returns how many bytes of the file itself have been read: of a gzip, packed bytes."""
    raw = getattr(file, "raw", None)
    return raw.packed_bytes if isinstance(raw, _Unpacked) else file.tell()


def start_of(path: Path, count: int = 16) -> bytes:
    """Returns the first bytes of a file's content, unpacked."""
    with opened(path) as file:
        return file.read(count)


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise DataError(f"{path} is a folder.", hint="Name one data file in it.")
    if not path.exists():
        raise DataError(f"{path} does not exist.", hint="Check the path; it is read on the machine that prepares.")
    if not path.is_file():
        raise DataError(f"{path} is no regular file (a pipe, a socket or a device).", hint="Name a data file.")
    raw = path.open("rb")
    start = raw.read(16)
    raw.seek(0)
    for magic, (what, fix) in ARCHIVES.items():
        if start.startswith(magic):
            raw.close()
            raise DataError(f"{path.name} is {what} (byte 1).", hint=f"{fix[0].upper()}{fix[1:]} first.")
    if not start.startswith(GZIP):
        return raw
    return cast("IO[bytes]", io.BufferedReader(_Unpacked(raw, path.name), 2**16))


class _Unpacked(io.RawIOBase):
    """Reads the content of a gzip as long as it stays within the limits."""

    def __init__(self, packed: IO[bytes], name: str) -> None:
        self._packed, self._name = packed, name
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        self._count += len(data)
        if self._count > FREE_BYTES and self._count > MAX_RATIO * max(self._packed.tell(), 1):
            self._refuse(f"more than {MAX_RATIO} times its size")
        if self._count > MAX_UNPACKED_BYTES:
            self._refuse(f"more than {MAX_UNPACKED_BYTES / 2**30:g} GiB")
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self._count

    @property
    def packed_bytes(self) -> int:
        return self._packed.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()

    def _refuse(self, what: str) -> None:
        raise LimitError(
            f"{self._name} is a gzip that unpacks to {what} (at byte {self._packed.tell()} of it).",
            hint="If that is honest data, unpack it first (gunzip) and submit the plain file.",
        )
