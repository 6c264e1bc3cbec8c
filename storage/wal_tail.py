"""Counts the bytes that a sudden power-off cut from SQLite's write-ahead log; SQLite drops them silently.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. A header of 32 bytes is followed by frames of
24 bytes and a page each; the last frame of a transaction holds the size of the database. A frame belongs to the log if
its salt is that of the header. SQLite recovers every transaction whose frames are whole.
"""

import struct
from pathlib import Path

HEADER_BYTES, FRAME_BYTES = 32, 24
MAGIC = (0x377F0682, 0x377F0683)


def cut_bytes(record: Path) -> int:
    """Count the bytes behind the last whole transaction in the log of a record that no process has open.

    Args:
        record: The SQLite file; its log lies beside it.

    Returns:
        The bytes that SQLite will drop; 0 where the log is whole, empty or not there.
    """
    log = record.with_name(record.name + "-wal")
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        size_bytes = log.stat().st_size
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return size_bytes
        magic, _, page_bytes, _, *salt = struct.unpack(">6I", header[:24])
        if magic not in MAGIC or not page_bytes:
            return size_bytes
        whole, at = HEADER_BYTES, HEADER_BYTES
        while at + FRAME_BYTES + page_bytes <= size_bytes:
            file.seek(at)
            _, pages, *found = struct.unpack(">4I", file.read(16))
            if found != salt:
                return 0  # what follows is left of an earlier log, which is no damage
            at += FRAME_BYTES + page_bytes
            whole = at if pages else whole
        return size_bytes - whole
