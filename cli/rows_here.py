"""Judges the datasets of a command: whether one is a file here, and whether its rows are good."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from ..errors import DataError
from ..models.datasets import Reference
from ..tuning.files.sources import is_remote
from ..tuning.files.suffixes import SUFFIXES
from ..tuning.recipe import Method
from ..tuning.rows import data_file, row_reader

FILES = (*SUFFIXES, ".gz")
"""The suffixes that mark a dataset's name as a file, even where the file is missing."""

CHECKED_BYTES = 64 * 2**20
"""The largest size of a dataset that is read before it is submitted."""


def is_file(source: str) -> bool:
    """Return whether a dataset is a file here: neither a URL nor the name of a dataset of the record."""
    if is_remote(source):
        return False
    return Path(source).exists() or Reference.parse(source) is None or Path(source).suffix in FILES


def check_rows(path: Path, job: Mapping[str, Any] | None = None) -> None:
    """Refuse a file with a bad line here, under its own name; a large one is left to ``prepare``, which reads it too.

    Args:
        path: The file.
        job: The fields of the job that trains on the file; None for a file that the job measures with, whose rows may
            be of another format.

    Raises:
        DataError: The file is missing, has bad lines, has no rows, or has rows that the job's method does not train on.
    """
    if not path.is_file():
        raise DataError(f"the dataset {path} is no file here.", hint="Give the path of a .jsonl file.")
    if path.stat().st_size > CHECKED_BYTES:
        return
    data = row_reader.read(path, _columns(job or {}))
    method: Method = data.methods[0] if data.methods else "sft"
    if job is not None and (asked := job.get("method") or "sft") in get_args(Method):  # the spec refuses any other
        method = cast("Method", asked)
    data_file.require_good(data, method)


def _columns(job: Mapping[str, Any]) -> dict[str, str]:
    given = job.get("columns")
    return cast("dict[str, str]", given) if isinstance(given, dict) else {}
