"""Opens a file whose name comes from outside: only a regular file, and only below the folders that an operator allowed.

The open descriptor is checked, not the name. A name can be made to point elsewhere between a check and a read; a
descriptor cannot. Links are followed, as a hub's snapshots and Kubernetes' mounts need, and the path that the kernel
reports for the descriptor must lie below a root. Nothing is opened for reading before it is known to be a regular
file, so that a FIFO blocks no process and a device is never read.
"""

import os
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError
from .paths import confine

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_DESCRIPTORS = "/proc/self/fd"
_KERNEL = (Path("/proc"), Path("/sys"))
"""Folders of the kernel's files, which count as regular files and hold a process's environment and memory."""


@contextmanager
def open_regular(path: Path, *, what: str = "the dataset") -> Generator[BinaryIO]:
    """Open a regular file to read it; links are followed.

    Args:
        path: The file.
        what: The file's role in the error's sentence.

    Raises:
        DataError: It is not there, may not be read, or is no regular file.
    """
    with _judged(path, None, path, what) as handle, os.fdopen(handle, "rb", closefd=False) as file:
        yield file


def file_name(path: str | Path, otherwise: str) -> str:
    """Return the last part of a path as the name of a new file; ``otherwise`` where the path ends with dots or a slash.

    ``Path("base/..").name`` is ``..``, which as a new file's name is the folder above.
    """
    name = Path(path).name
    return otherwise if name in ("", ".", "..") else name


@contextmanager
def open_confined(source: str, roots: Iterable[Path], *, what: str = "the dataset") -> Generator[BinaryIO]:
    """Open a regular file below one of the roots to read it.

    Args:
        source: An absolute path from outside.
        roots: The allowed folders.
        what: The file's role in the error's sentence.

    Raises:
        DataError: It is refused by ``confine``, leads out of every root at the moment it is opened, is not there, may
            not be read, or is no regular file.
    """
    allowed = list(roots)
    real = confine(source, allowed)
    with _judged(real, allowed, Path(source), what) as handle, os.fdopen(handle, "rb", closefd=False) as file:
        yield file


@contextmanager
def pinned(source: str, roots: Iterable[Path], link: Path, *, what: str = "the dataset") -> Generator[Path]:
    """Make a link that opens the checked file, even if its name points elsewhere meanwhile.

    The link names the open descriptor of this process. It works in this process and in those that it forks.

    Args:
        source: An absolute path from outside.
        roots: The allowed folders.
        link: The link's place; its parent exists.
        what: The file's role in the error's sentence.

    Raises:
        DataError: As ``open_confined``.
    """
    with open_confined(source, roots, what=what) as file:
        link.symlink_to(f"{_DESCRIPTORS}/{file.fileno()}")
        try:
            yield link
        finally:
            link.unlink(missing_ok=True)


@contextmanager
def _judged(path: Path, roots: list[Path] | None, named: Path, what: str) -> Generator[int]:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(named, what, error) from error
    try:
        state = os.fstat(place)
        mode, device = state.st_mode, state.st_dev
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise DataError(
                f"{what} {named} is {kind}, and only regular files are read.", hint="Give the path of a file."
            )
        real = Path(_DESCRIPTORS, str(place)).readlink()
        if any(real.is_relative_to(folder) or _device_of(folder) == device for folder in _KERNEL):
            raise DataError(f"{what} {named} is a file of the kernel ({real}).", hint="Give the path of a data file.")
        if roots is not None:
            confine(str(real), roots)
        try:
            handle = os.open(f"{_DESCRIPTORS}/{place}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(named, what, error) from error
    finally:
        os.close(place)
    try:
        yield handle
    finally:
        os.close(handle)


def _device_of(folder: Path) -> int | None:
    return folder.stat().st_dev if folder.is_dir() else None


def _unreadable(named: Path, what: str, error: OSError) -> DataError:
    return DataError(f"{what} {named} can't be read: {error.strerror}.", hint="Give the path of a file that is there.")
