"""Confines a path from outside to the folders that an operator allowed; no other module resolves such paths."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError

_GLOB = re.compile(r"[*?\[\]]")
_UNSEEN = ("Cc", "Cs")  # control characters, lone surrogates


def confine(source: str, roots: Iterable[Path]) -> Path:
    """Resolve ``source``, which must lie below one of the roots; symbolic links are followed first.

    Args:
        source: An absolute path from outside.
        roots: The allowed folders.

    Returns:
        The path without links, for use instead of the source. The file need not exist.

    Raises:
        DataError: The source is empty, relative, a URL or a pattern, holds control characters, or leads out of every
            root.
    """
    if any(unicodedata.category(character) in _UNSEEN for character in source):
        raise DataError(f"the path {source!r} holds control characters.", hint="Give the path of one file.")
    if "://" in source or "::" in source or source.lower().startswith("file:"):
        raise DataError(
            f"{source!r} is a URL, and this installation reads local files.",
            hint="Download it first and give the path, or import it with `celora submit --dataset FILE`.",
        )
    if _GLOB.search(source):
        raise DataError(f"{source!r} is a pattern.", hint="Give the path of one file.")
    if not Path(source).is_absolute():
        raise DataError(
            f"{source!r} is a relative path, and the workers run in another folder.",
            hint="Give an absolute path, or import the file with `celora submit --dataset FILE`.",
        )
    real = os.path.realpath(source)
    allowed = [os.path.realpath(root) for root in roots]
    if not any(os.path.commonpath((real, root)) == root for root in allowed):
        raise DataError(
            f"{source} lies outside the allowed folders ({', '.join(allowed) or 'there are none'}).",
            hint="Move it there, or let an operator add its folder to CELORA_ALLOWED_ROOTS.",
        )
    return Path(real)
