"""Reads a ``.parquet`` file, row by row. A Parquet file has no lines: its rows count from 1."""

import math
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from ...errors import DataError, UnavailableError
from .faults import BadLine, Fault
from .gzip_file import opened
from .record import Record
from .strict_json import JsonObject, JsonValue

BATCH_ROWS = 256
COPY_BYTES = 1 << 20


@dataclass(slots=True)
class ParquetFile:
    """Reads a ``.parquet`` file, plain or gzipped; iterating yields its rows and fills the counts.

    Attributes:
        lines: Rows read so far.
        done_bytes: Bytes of the file itself read so far, an estimate from the rows.
    """

    path: Path
    lines: int = 0
    blank: int = 0
    done_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[Record | BadLine]:
        parquet, arrow_error = _arrow()
        size = self.path.stat().st_size if self.path.is_file() else 0
        with _seekable(self.path) as file:
            try:
                table = parquet.ParquetFile(file)
                header: list[str] = table.schema_arrow.names
                total = max(table.metadata.num_rows, 1)
                for batch in table.iter_batches(batch_size=BATCH_ROWS):
                    self.done_bytes = size * self.lines // total
                    columns = [(name, batch.column(number)) for number, name in enumerate(header)]
                    for index in range(batch.num_rows):
                        self.lines += 1
                        yield self._row(columns, index)
            except (arrow_error, OSError, ValueError) as error:
                words = " ".join(str(error).split())[:200]
                raise DataError(
                    f"{self.path.name} is no Parquet file that can be read (after row {self.lines}: {words}).",
                    hint="Write it again with pyarrow or pandas.",
                ) from None
        self.done_bytes = size

    def _row(self, columns: list[tuple[str, Any]], index: int) -> Record | BadLine:
        value: JsonObject = {}
        for name, column in columns:
            try:
                value[name] = _plain(column[index].as_py(), name)
            except UnicodeDecodeError as error:
                reason = f"the byte 0x{error.object[error.start]:02x} of {name} is not UTF-8"
                return Fault("not_utf8", reason, "write the column as UTF-8 text", at=(name,)).bad_line(self.lines)
            except Fault as fault:
                return fault.bad_line(self.lines)
        return Record(self.lines, value)


def _plain(value: Any, name: str) -> JsonValue:
    """Returns a value as JSON would hold it, without the nulls that Parquet fills absent fields with."""
    if isinstance(value, str):
        if "\0" in value:
            raise Fault("nul", f"{name} holds a NUL character", "remove it", at=(name,))
        return value
    if isinstance(value, dict):
        return {key: _plain(item, name) for key, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_plain(item, name) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # a number that is missing, as pandas writes it
    return value


def _arrow() -> tuple[Any, type[Exception]]:
    try:
        arrow: Any = import_module("pyarrow")  # imported late and by name: optional, heavy, without types
        return import_module("pyarrow.parquet"), arrow.ArrowException
    except ImportError:
        raise UnavailableError(
            "reading a .parquet file needs pyarrow, which is not installed.", hint="Run: pip install 'celora[train]'"
        ) from None


@contextmanager
def _seekable(path: Path) -> Generator[IO[bytes]]:
    """Opens a Parquet file, whose index is at its end; a gzipped file is unpacked into a file without a name first."""
    with opened(path) as file:
        if file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            while chunk := file.read(COPY_BYTES):
                unpacked.write(chunk)
            unpacked.seek(0)
            yield unpacked
