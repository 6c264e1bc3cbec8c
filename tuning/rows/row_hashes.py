"""Hashes the rows of a dataset file, in order to answer "new rows since version N"; checks them first where asked.

A row's hash covers its values by key, whatever container, order of keys or line the row has. A version's hashes are
one small file: 16 bytes a row, sorted, each once.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ...storage.manifest import file_sha256
from ..files.faults import BadLine, BadLines
from ..files.readers import container
from ..files.strict_json import JsonObject
from ..protocol import Emit, IndexRequest, IndexResult
from .data_file import BadRowsError
from .row_reader import rows as examples

HASH_BYTES = 16
REPORTED_ROWS = 10_000


def row_hash(value: JsonObject) -> bytes:
    """Hash a row so that equal rows of any two files have the same hash: blake2b-128 of their JSON, keys sorted."""
    words = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(words.encode(errors="surrogatepass"), digest_size=HASH_BYTES).digest()


def index(request: IndexRequest, emit: Emit) -> IndexResult:
    """Read a dataset file and write its rows' hashes.

    Raises:
        BadRowsError: Some lines are no rows, or no examples to train on if those are asked for; each is named.
        DataError: The file is missing, unreadable or empty.
    """
    path = Path(request.dataset)
    if request.examples:
        _require_examples(path, emit)
    file, bad = container(path), BadLines()
    found: set[bytes] = set()
    rows = 0
    for row in file:
        if isinstance(row, BadLine):
            bad.add(row)
            continue
        rows += 1
        if not rows % REPORTED_ROWS:
            emit("phase", phase=f"read {path.name}", done=file.done_bytes, total=path.stat().st_size)
        found.add(row_hash(row.value))
    if bad.total:
        raise BadRowsError(path.name, bad, file.lines)
    if not rows:
        raise DataError(f"{path.name} holds no rows.", hint="Write one JSON object a line, and check the path.")
    Path(request.out_file).write_bytes(b"".join(sorted(found)))
    return IndexResult(rows=rows, distinct_rows=len(found), sha256=file_sha256(path), size_bytes=path.stat().st_size)


def _require_examples(path: Path, emit: Emit) -> None:
    """Read every row as ``prepare`` reads it, and refuse a file with bad rows."""
    reading = examples(path)
    for count, _ in enumerate(reading.examples()):
        if not count % REPORTED_ROWS:
            emit("phase", phase=f"check {path.name}", done=reading.done_bytes, total=path.stat().st_size)
    if reading.data.bad.total:
        raise BadRowsError(path.name, reading.data.bad, reading.data.lines)


def new_rows(path: Path, known: bytes) -> Iterator[JsonObject]:
    """Yield the rows of a file, in order, whose hash is not among the known ones; a repeated row is yielded once.

    Args:
        path: A file that ``index`` has read without an error.
        known: The hashes of another version, as ``index`` wrote them.

    Raises:
        DataError: A line is no row, although ``index`` accepted the file.
    """
    seen = {known[start : start + HASH_BYTES] for start in range(0, len(known), HASH_BYTES)}
    for row in container(path):
        if isinstance(row, BadLine):
            raise DataError(f"{path.name}, {row}.", hint=f"{row.fix[0].upper()}{row.fix[1:]}.")
        digest = row_hash(row.value)
        if digest not in seen:
            seen.add(digest)
            yield row.value
