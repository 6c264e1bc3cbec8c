"""Recognises a full disk in any library's error, and reports the disk, the needed bytes and the free bytes.

SQLite, torch, safetensors and fsspec each report "no space" in an error of their own; each place that writes translates
the error here, so that every place reports a full disk alike.
"""

import errno
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CeloraError, DiskFullError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_SPACE_WORDS = re.compile(
    r"os error (28|122|27)\b|No space left|disk is full|File too large|unexpected pos|PytorchStreamWriter failed"
)
"""The messages of libraries that raise no OSError: safetensors (Rust), SQLite, torch's zip writer."""
MARGIN_BYTES = 2**20
"""The bytes that must stay free beside a write, since folders, manifest and journal take some too."""
NEARLY_FULL_BYTES = 2**20
"""With less free than this, an error without a reason is taken for a full disk."""
HINT = "Free space there, or point CELORA_HOME or the scratch folder at a larger disk; then retry the job."


def is_no_space(error: BaseException) -> bool:
    """Return whether a write failed for lack of space, a quota or a limit of the file's size."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_SPACE
    return NO_SPACE_WORDS.search(str(error)) is not None


def has_filled(path: Path, words: str) -> bool:
    """Return whether a library's message means a full disk: SQLite reports one as ``disk I/O error``, too."""
    io_error = "disk I/O error" in words
    return NO_SPACE_WORDS.search(words) is not None or (io_error and free_bytes(path) < NEARLY_FULL_BYTES)


def free_bytes(path: Path) -> int:
    """Return the free space of the disk on which a path lies or would lie."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def disk_full(
    path: Path,
    *,
    what: str = "",
    need_bytes: int = 0,
    error: BaseException | None = None,
    hint: str = HINT,
    kind: type[DiskFullError] = DiskFullError,
) -> DiskFullError:
    """Make the error that says which disk is full.

    Args:
        path: The target of the bytes.
        what: The bytes, in words; empty: the path says it.
        need_bytes: Their number; 0 where it is not known.
        error: The error that a library raised.
        hint: The next step for a person.
        kind: The class of the error.

    Example:
        ``no space left for the prepared data at /home/c/scratch: 40.0 MiB needed, 3.1 MiB free.``
    """
    free = free_bytes(path)
    cause = f" ({(str(error).splitlines() or [type(error).__name__])[0]})" if error is not None else ""
    need = f"{need_bytes / 2**20:.1f} MiB needed, " if need_bytes else ""
    return kind(
        f"no space left{f' for {what}' if what else ''} at {path}{cause}: {need}{free / 2**20:.1f} MiB free.",
        hint=hint,
        facts={"path": str(path), "need_bytes": need_bytes, "free_bytes": free},
    )


@contextmanager
def room(path: Path, need_bytes: int = 0, *, what: str = "", hint: str = HINT) -> Generator[None]:
    """Check for space before a write, and translate "no space" during the write.

    Args:
        path: The target of the bytes.
        need_bytes: Their number; 0 where it is not known, and nothing is checked before.
        what: As ``disk_full`` takes it.
        hint: As ``disk_full`` takes it.

    Raises:
        DiskFullError: Less is free than needed, or a library reported a full disk during the block.
    """
    if need_bytes and free_bytes(path) < need_bytes + MARGIN_BYTES:
        raise disk_full(path, what=what, need_bytes=need_bytes, hint=hint)
    try:
        yield
    except CeloraError:
        raise  # it names the place already
    except Exception as error:
        if not is_no_space(error):
            raise
        raise disk_full(path, what=what, need_bytes=need_bytes, error=error, hint=hint) from error
