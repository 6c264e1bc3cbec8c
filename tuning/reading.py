"""Reads a dataset file into a spool, with notes of its rows; a long ``.jsonl`` on all cores.

Copies of this process (forks.py) read such a file in blocks of whole lines, and only vouch for a block in which every
line is a good row of the format that the file began with. Any other block is read here, line by line, as a short file
is; so what is refused, and in which words, does not depend on who read first.
"""

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from . import forks
from .conversations import usual_chat
from .faults import BadLine
from .fields import KEPT_KEYS
from .findings import Notes
from .formats import DataFile, Rows, rows
from .lines import MAX_BLANK_LINES, LineFile
from .preferences import as_rows
from .progress import PhaseProgress
from .protocol import Emit
from .rows import Example, Row
from .spool import Packed, Spool

BLOCK_BYTES = 1 << 20
LEAST_BYTES = 1 << 20
"""Of a shorter file copies are not worth their start."""

MOST_UNCLEAN = 20
"""After so many blocks that copies did not vouch for, the rest is read here: each was read twice."""

REPORTED_ROWS = 200


def read(
    path: Path, columns: Mapping[str, str], folder: Path, emit: Emit, *, processes: int = 1
) -> tuple[DataFile, Notes]:
    """Read and check a file, and take notes of its rows on the way; the rows go to disk.

    Args:
        path: The file.
        columns: Our names to the file's.
        folder: Where the rows are put, in files without a name.
        emit: Told of the progress.
        processes: How many copies of this process may help; with one, none does.

    Returns:
        What was found out; its ``rows`` are a spool, and its ``pairs`` one of what preference rows compare.

    Raises:
        DataError: The file is missing, none that can be read, or damaged.
        SettingsError: ``columns`` names no format.
    """
    reading, kept = rows(path, columns), _Kept(Notes(), Spool(folder), Spool(folder))
    size = path.stat().st_size
    progress = PhaseProgress(emit, f"read {path.name}", size)
    lines = reading.container
    if processes > 1 and size >= LEAST_BYTES and isinstance(lines, LineFile) and not lines.packed:
        with path.open("rb") as file:
            _Shared(reading, lines, kept, file, progress).read(processes)
    else:
        _keep(reading.of(reading.container), reading, kept, progress)
    for _ in reading.finished():
        pass  # each is counted in the reading's data
    progress.end()
    reading.data.rows, reading.data.pairs = kept.rows, kept.pairs
    return reading.data, kept.notes


@dataclass(slots=True)
class _Kept:
    """Where good rows go."""

    notes: Notes
    rows: Spool
    pairs: Spool

    def add(self, example: Example) -> None:
        self.notes.add(example)
        if isinstance(example, Row):
            self.rows.append(example)
        else:
            for row in as_rows(example):
                self.pairs.append(row)


def _keep(found: Iterator[Example | BadLine], reading: Rows, kept: _Kept, progress: PhaseProgress) -> None:
    for count, example in enumerate(found):
        if not isinstance(example, BadLine):
            kept.add(example)
        if not count % REPORTED_ROWS:
            progress.at(reading.done_bytes)


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole lines of a file: from byte ``begin`` to ``end``, the first of them the one after ``before`` others."""

    begin: int
    end: int
    before: int
    long: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """What a copy found in a block that it vouches for."""

    rows: Packed
    notes: Notes
    lines: int
    blank: int
    crlf: int
    ignored: Counter[str]


@dataclass(slots=True)
class _Shared:
    """A file that is read with copies of this process."""

    reading: Rows
    lines: LineFile
    kept: _Kept
    file: IO[bytes]
    progress: PhaseProgress

    def read(self, processes: int) -> None:
        """Read all of it; the first block is read here, so that all know the format."""
        blocks = _blocks(self.file.fileno())
        first = next(blocks, _Block(0, 0, 0))  # (emptied meanwhile)
        self._here(first)
        at, unclean, form = first.end, 0, next(iter(self.reading.data.by_format), "")
        if form and not self.reading.gave_up:
            work = partial(_read_block, self.reading, self.file.fileno(), form)
            with closing(forks.shared_out(work, blocks, processes)) as shared:
                for block, part in shared:
                    if part is None or self.lines.blank + part.blank > MAX_BLANK_LINES:
                        unclean += 1
                        self._here(block)
                    else:
                        self._take(form, block, part)
                    at = block.end
                    if unclean > MOST_UNCLEAN or self.reading.gave_up:
                        break
        if not self.reading.gave_up:
            self.file.seek(at)
            _keep(self.reading.of(self.lines.between(self.file)), self.reading, self.kept, self.progress)

    def _here(self, block: _Block) -> None:
        self.file.seek(block.begin)
        _keep(self.reading.of(self.lines.between(self.file, block.end)), self.reading, self.kept, self.progress)

    def _take(self, form: str, block: _Block, part: _Part) -> None:
        """What a copy vouches for."""
        lines = self.lines
        self.reading.take(form, part.notes.lines, part.ignored)
        self.reading.data.lines = lines.lines = part.lines
        lines.done_bytes = block.end
        lines.blank += part.blank
        lines.crlf += part.crlf
        self.kept.rows.extend(part.rows)
        self.kept.notes.extend(part.notes)
        self.progress.at(block.end)


def _blocks(descriptor: int) -> Iterator[_Block]:
    """The file in blocks; a line that is longer than one is a block of its own."""
    at = before = 0
    while data := os.pread(descriptor, BLOCK_BYTES, at):
        cut = len(data) if len(data) < BLOCK_BYTES else data.rfind(b"\n") + 1
        if cut:
            block = _Block(at, at + cut, before)
        else:
            end = at + len(data)
            while (more := os.pread(descriptor, BLOCK_BYTES, end)) and b"\n" not in more:
                end += len(more)
            block = _Block(at, end + more.find(b"\n") + 1, before, long=True)
        before += data.count(b"\n", 0, cut) if cut else 1
        yield block
        at = block.end


def _read_block(reading: Rows, descriptor: int, form: str, block: _Block) -> _Part | None:
    """In a copy: the rows of a block; None where it holds anything else than good rows of one format."""
    if block.long:
        return None
    lines = LineFile(reading.data.path)
    fresh = reading.fresh(lines)
    notes, kept = Notes(), Spool(file=io.BytesIO())
    written = os.pread(descriptor, block.end - block.begin, block.begin).split(b"\n")
    if not written[-1]:
        written.pop()  # behind the last line feed there is no line
    usual = form == "chat" and not reading.renames
    for number, raw in enumerate(written, block.before + 1):
        if usual and (said := usual_chat(raw)):
            turns, words = said
            notes.add_said(turns[0], words, number)
            kept.append_words(turns, words, number)
            continue
        lines.lines = number - 1
        for example in fresh.of(lines.between(io.BytesIO(raw + b"\n"))):
            if not isinstance(example, Row):
                return None
            notes.add(example)
            kept.append(example)
    found = fresh.data
    if (found.by_format.keys() - {form}) or len(found.ignored_keys) >= KEPT_KEYS:
        return None
    return _Part(kept.packed(), notes, block.before + len(written), lines.blank, lines.crlf, found.ignored_keys)
