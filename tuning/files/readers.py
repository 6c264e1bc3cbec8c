"""Chooses the reader of a dataset file, by the file's name and by its first bytes; joins several files to one."""

import json
from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError
from .csv_file import CsvFile
from .faults import BadLine
from .gzip_file import start_of
from .json_array import ArrayFile
from .jsonl import LineFile
from .parquet_file import ParquetFile
from .parts import PartsFile
from .record import Container
from .suffixes import SUFFIXES, suffix_of

PARQUET = b"PAR1"


READERS: dict[str, type[LineFile | ArrayFile | CsvFile | ParquetFile]] = {
    ".jsonl": LineFile,
    ".ndjson": LineFile,
    ".json": ArrayFile,
    ".csv": CsvFile,
    ".tsv": CsvFile,
    ".parquet": ParquetFile,
}


def container(path: Path) -> Container:
    """Returns the reader of a file's rows; a folder is one of parts (``parts.py``).

    Raises:
        DataError: The suffix is unknown, the content is of another kind than the suffix says, or no such file exists.
    """
    if path.is_dir():
        return PartsFile(path, container)
    start = start_of(path)
    kind = suffix_of(path.name).removesuffix(".gz")
    if not kind:
        raise DataError(
            f"{path.name} is none of the files that can be read.",
            hint=f"Its name must end in {', '.join(SUFFIXES)}, or in one of these and .gz.",
        )
    if start.startswith(PARQUET) and kind != ".parquet":
        raise DataError(f"{path.name} is a Parquet file (byte 1).", hint="Let its name end in .parquet.")
    return READERS[kind](path)


def join(parts: Mapping[str, Path], whole: Path, *, dataset: str) -> None:
    """Writes the rows of several files to one ``.jsonl`` file.

    Args:
        parts: The files in order, by their names for a message.
        whole: The file to write.
        dataset: The dataset that the files make up, for a message.

    Raises:
        DataError: A line of a file is no row.
    """
    with whole.open("w", encoding="utf-8") as file:
        for name, path in parts.items():
            for record in container(path):
                if isinstance(record, BadLine):
                    raise DataError(f"{dataset}, {name}: {record}.", hint=f"{record.fix[0].upper()}{record.fix[1:]}.")
                file.write(json.dumps(record.value, ensure_ascii=False, default=_as_text) + "\n")


def _as_text(value: object) -> str | None:
    """Returns a value that JSON does not have: times and decimals as text, bytes (images, sound) as null."""
    return None if isinstance(value, bytes) else str(value)
