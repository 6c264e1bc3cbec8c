"""Fetches the folder of an adapter from a server, which sends it as a tar archive.

A server's names are judged before they are used: a member is a plain file below the folder, or the archive is refused.
Nothing is unpacked by the archive's own rights, owners, links or times.
"""

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from ...errors import StorageError
from ...storage.received_folder import receive_folder
from ...tuning.protocol import Base
from .connection import Connection
from .views import read

MOST_FILES = 10_000
OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published adapter; ``found_as`` says in words what its name names."""

    job_id: str
    name: str | None
    base: Base
    found_as: str


def find_adapter(connection: Connection, named: str) -> Published:
    """Find an adapter by a champion's name, by its own name, or by its job's id.

    Raises:
        NotFoundError: There is none.
    """
    return read(Published, connection.get(f"celora/adapters/{quote(named, safe='')}"))


def fetch_adapter(connection: Connection, job_id: str, target: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Fetch the folder of an adapter, verify each file by its SHA-256, and move it to its place.

    Args:
        connection: The connection to the server.
        job_id: The adapter's job.
        target: The folder's place: missing, or empty.
        on_bytes: Called with the number of bytes that came since the last call.

    Raises:
        StorageError: The archive breaks off, holds what does not belong there, or differs from its manifest.
        CeloraError: The server refuses the request, or does not answer.
    """
    place = f"celora/jobs/{quote(job_id, safe='')}/adapter"
    with receive_folder(target, what="the adapter") as folder, connection.download(place) as parts:
        unpack(parts, folder, on_bytes)


def local_name(name: str) -> str:
    """Return a name that a server gave as the name of a folder here: letters that may steer a path become hyphens."""
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).strip(".-")
    return kept[:100] or "adapter"


def unpack(parts: Iterator[bytes], folder: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Write the files of a tar archive below a folder, without the first part of their names.

    Raises:
        StorageError: The archive is none, or holds what does not belong there.
    """
    try:
        with tarfile.open(fileobj=_Stream(parts, on_bytes), mode="r|") as archive:
            for number, member in enumerate(archive):
                content = archive.extractfile(member) if member.isreg() and number < MOST_FILES else None
                if content is None:
                    raise StorageError(f"the archive holds {member.name[:200]!r}, which is no file of an adapter.")
                place = folder.joinpath(*_inside(member.name))
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as error:
        raise StorageError(f"the archive of the adapter can't be read ({error}).", hint="Try again.") from error


def _inside(name: str) -> tuple[str, ...]:
    """Return the parts of a member's path below the archive's own folder.

    Raises:
        StorageError: The path leads elsewhere.
    """
    path = PurePosixPath(name)
    below = path.parts[1:]
    if path.is_absolute() or not below or ".." in path.parts or any("\\" in part or "\0" in part for part in below):
        raise StorageError(f"the archive holds the path {name[:200]!r}, which leads out of its folder.")
    return below


class _Stream(io.RawIOBase):
    """Parts of bytes as a file that can be read once.

    Args:
        parts: The parts.
        on_bytes: Called with the size of each part.
    """

    def __init__(self, parts: Iterator[bytes], on_bytes: OnBytes) -> None:
        self._parts, self._on_bytes, self._rest = parts, on_bytes, b""

    def read(self, size: int = -1, /) -> bytes:
        while size < 0 or len(self._rest) < size:
            part = next(self._parts, b"")
            if not part:
                break
            self._on_bytes(len(part))
            self._rest += part
        taken, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return taken
