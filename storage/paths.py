"""Confines a path that came from outside to the folders that an operator allowed."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..settings.errors import DataError

_GLOB = re.compile(r"[*?\[\]]")


def confine(source: str, roots: Iterable[Path]) -> Path:
    """The real path of ``source``, which must lie below one of the roots; symbolic links are followed first.

    Raises:
        DataError: It is a URL, a pattern, holds control characters, or leads out of every root.
    """
    if any(ord(character) < 32 for character in source):  # noqa: PLR2004  (control characters)
        raise DataError(f"the path {source!r} holds control characters.", hint="Give the path of one file.")
    if "://" in source or "::" in source:
        raise DataError(
            f"{source!r} is a URL, and this installation reads local files.",
            hint="Download it first and give the path, or import it with `celora submit --dataset FILE`.",
        )
    if _GLOB.search(source):
        raise DataError(f"{source!r} is a pattern.", hint="Give the path of one file.")
    real = Path(os.path.realpath(Path(source).expanduser()))
    allowed = [Path(os.path.realpath(root)) for root in roots]
    if not any(real.is_relative_to(root) for root in allowed):
        listed = ", ".join(map(str, allowed))
        raise DataError(
            f"{source} lies outside the allowed folders ({listed}).",
            hint="Move it there, or let an operator add its folder to CELORA_ALLOWED_ROOTS.",
        )
    return real
