"""Turns a set of rows into tokens on disk, and counts what happens to the rows on the way.

Rows come from disk and tokens go to disk, a piece at a time, so a set may be larger than memory. Forked copies of this
process (worker_pool.py), one a core, share the pieces of a large set. The tokenizer has threads of its own, but the
Python code around it would make them wait.

A row is cut at its end. A row without a token that carries loss after the cut is dropped, and so is a held-out row
whose prompt alone fills the length. Both are counted, with their lines.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..batches.prepared_set import TRAIN, PreparedSet, SetWriter
from ..files.faults import BadLines
from ..phases import PhaseProgress
from ..protocol import Emit
from ..recipe import Turns
from ..rows.data_file import BadRowsError, DataFile
from ..rows.row import Row
from ..templates.chat_template import ChatTemplate
from . import worker_pool
from .encode import Cut, EncodedPiece, Encoder
from .receipt import SetFacts
from .row_store import stored
from .samples import FirstRow

PIECE_ROWS = 1000  # even, so that pairs fit
PIECE_BYTES = 500_000
"""A piece ends at either limit; an encoding takes about 150 bytes a token in memory."""

LEAST_BYTES = 1 << 20
"""Smallest set for forked copies: for a smaller one their start costs more than they save."""


class NoUsableRowsError(DataError):
    """Every row of a set was cut so far that no token is left to learn or measure."""


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """Holds a set of rows as tokens on disk, the findings, the first row of each kind, and the largest token id."""

    rows: PreparedSet
    facts: SetFacts
    firsts: dict[str, FirstRow]
    largest_token: int


@dataclass(slots=True)
class Tokenization:
    """Runs one pass over a set of rows.

    Args:
        template: The template in force.
        name: The name of the set.
        folder: The folder for the set's files.
        max_length: Most tokens of a row; longer rows are cut.
        completion_only: Loss on the assistant's words only, else on everything.
        turns: The answers of a conversation that are trained.
        too_long: Selects if a row longer than ``max_length`` is cut or dropped.
        processes: Number of copies of this process that may help; with one, none does.
        group: Rows that stay or go together: 2 for pairs of a chosen and a rejected answer.
    """

    template: ChatTemplate
    name: str
    folder: Path = field(kw_only=True)
    max_length: int = field(kw_only=True)
    completion_only: bool = field(kw_only=True)
    turns: Turns = field(default="whole", kw_only=True)
    too_long: Literal["cut", "drop"] = field(default="cut", kw_only=True)
    processes: int = field(default=1, kw_only=True)
    group: int = field(default=1, kw_only=True)

    def tokenize(self, rows: Sequence[Row], source: DataFile, emit: Emit) -> TokenizedSet:
        """Render and tokenize the rows.

        Args:
            rows: The set.
            source: The file they came from; errors name it.
            emit: Receives the progress.

        Raises:
            BadRowsError: The template refuses some rows; each is named.
            NoUsableRowsError: No row is left.
        """
        progress = PhaseProgress(emit, f"tokenize {self.name}", len(rows))
        facts, bad, done = SetFacts(), BadLines(), 0
        firsts: dict[str, FirstRow] = {}
        with SetWriter(self.folder, self.name) as writer:
            for size, piece in self._pieces(rows):
                for kind, first in piece.firsts.items():
                    firsts.setdefault(kind, FirstRow(writer.rows + first.number, first.line))
                writer.write(*piece.arrays, labels=bytes(piece.labels))
                writer.write_prompts(piece.prompts)
                facts.extend(piece.facts)
                bad.extend(piece.bad)
                done += size
                progress.at(done)
        progress.end()
        source.bad = bad
        report_bad(source, emit)
        if bad.total:
            raise BadRowsError(source.path.name, bad, source.lines)
        if not writer.rows:
            writer.discard()
            raise NoUsableRowsError(
                f"no row of the set {self.name} ({source.path.name}) can be used: with at most {self.max_length} "
                "tokens a row, every answer is cut off.",
                hint="Raise max_length, shorten the prompts, or take a base with a longer context.",
            )
        rows_left = writer.rows // self.group
        facts.rows, facts.tokens, facts.trained_tokens = rows_left, writer.tokens, writer.trained_tokens
        return TokenizedSet(PreparedSet.load(self.folder, self.name), facts, firsts, writer.largest_token)

    def _pieces(self, rows: Sequence[Row]) -> Iterator[tuple[int, EncodedPiece]]:
        """Yields the set in pieces: each one's number of rows, and its tokens."""
        store, numbers = stored(rows)
        sizes = store.size_bytes(numbers)
        encoder = Encoder(
            self.template,
            store,
            numbers,
            max_length=self.max_length,
            completion_only=self.completion_only,
            turns=self.turns,
            too_long=self.too_long,
            held_out=self.name != TRAIN,
            group=self.group,
        )
        cuts = _cuts(sizes, self.group)
        if self.processes > 1 and int(sizes.sum()) >= LEAST_BYTES:
            with closing(worker_pool.shared_out(encoder.short_piece, cuts, self.processes)) as shared:
                for cut, piece in shared:
                    yield cut[1] - cut[0], piece or encoder.piece(cut)
        else:
            for cut in cuts:
                yield cut[1] - cut[0], encoder.piece(cut)


def _cuts(sizes: NDArray[np.int64], group: int = 1) -> Iterator[Cut]:
    """Cut a set into pieces of whole groups: yield the first row of each and the row after its last."""
    ends = np.cumsum(sizes)
    at = 0
    while at < len(sizes):
        full = int(np.searchsorted(ends, int(ends[at] - sizes[at]) + PIECE_BYTES, side="right"))
        end = min(max(full, at + 1), at + PIECE_ROWS, len(sizes))
        end += -(end - at) % group
        yield at, end
        at = end


def report_bad(data: DataFile, emit: Emit) -> None:
    """Report a file's bad lines, the first hundred one by one, in a note."""
    bad = data.bad
    if bad.total:
        lines = [f"  {line}. Fix: {line.fix}." for line in bad.shown]
        rest = [f"  … and {bad.total - len(lines)} more"] if bad.total > len(lines) else []
        counts = ", ".join(f"{count} {kind}" for kind, count in bad.counts.most_common())
        emit("note", level="warning", message="\n".join([f"bad lines in {data.path.name} ({counts}):", *lines, *rest]))
