"""The rows of a dataset file as hashes: how "new rows since version N" is answered.

A row's hash is of what it holds by key, whatever container, order of keys or line it stands in. A version's hashes are
one small file: 16 bytes a row, sorted, each once.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..settings.errors import DataError
from ..storage.manifest import file_sha256
from .containers import container
from .faults import BadLine, BadLines
from .formats import BadRowsError
from .protocol import Emit, IndexRequest, IndexResult

HASH_BYTES = 16
REPORTED_ROWS = 10_000


def row_hash(value: dict[str, Any]) -> bytes:
    """What makes two rows of any two files equal: blake2b-128 of their JSON, keys sorted."""
    words = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(words.encode(errors="surrogatepass"), digest_size=HASH_BYTES).digest()


def index(request: IndexRequest, emit: Emit) -> IndexResult:
    """Read a dataset file and write its rows' hashes.

    Raises:
        BadRowsError: Lines that are no rows, each named.
        DataError: The file is missing, unreadable or empty.
    """
    path = Path(request.dataset)
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


def new_rows(path: Path, known: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a file, in their order, whose hash is not among the known ones; repeated ones come once.

    Args:
        path: A file that ``index`` has read without complaint.
        known: Another version's hashes, as ``index`` wrote them.

    Raises:
        DataError: A line is no row after all.
    """
    seen = {known[start : start + HASH_BYTES] for start in range(0, len(known), HASH_BYTES)}
    for row in container(path):
        if isinstance(row, BadLine):
            raise DataError(f"{path.name}, {row}.", hint=f"{row.fix[0].upper()}{row.fix[1:]}.")
        digest = row_hash(row.value)
        if digest not in seen:
            seen.add(digest)
            yield row.value
