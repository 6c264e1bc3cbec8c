"""A set of rows as tokens: rendered, tokenized in batches, cut to length, and what was found out on the way.

Rows come from disk and tokens go to disk, a piece at a time, so a set may be larger than memory. The pieces of a large
set are shared out to copies of this process (forks.py), one a core: the tokenizer has threads of its own, but what
stands around it in Python would have them wait.

A row is cut at its end. One that has no token with loss left after that is dropped, and so is a held-out row whose
prompt alone fills the length; both are counted, with their line numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..settings.errors import DataError
from . import forks
from .faults import BadLines
from .formats import BadRowsError, DataFile, Row
from .pieces import Cut, Done, Pieces
from .prepared import TRAIN, PreparedSet, SetWriter
from .progress import PhaseProgress
from .protocol import Emit
from .receipt import SetFacts
from .spool import numbered
from .templates import ChatTemplate

PIECE_ROWS = 1000
PIECE_BYTES = 500_000
"""A piece ends at either; an encoding takes about 150 bytes a token while it is looked at."""

LEAST_BYTES = 1 << 20
"""Of a smaller set neither copies nor a table of the tokens' bytes are worth their start."""


class NoUsableRowsError(DataError):
    """Every row of a set was cut down to nothing that can be learned or measured."""


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """A set of rows as tokens on disk, and what was found out."""

    rows: PreparedSet
    facts: SetFacts


@dataclass(slots=True)
class Tokenization:
    """One pass over a set of rows.

    Args:
        template: In force.
        name: The set's.
        folder: Where the set's files are written.
        max_length: Rows are cut to so many tokens.
        completion_only: Loss on the assistant's words only, else on everything.
        processes: How many copies of this process may help; with one, none does.
    """

    template: ChatTemplate
    name: str
    folder: Path = field(kw_only=True)
    max_length: int = field(kw_only=True)
    completion_only: bool = field(kw_only=True)
    processes: int = field(default=1, kw_only=True)

    def tokenize(self, rows: Sequence[Row], source: DataFile, emit: Emit) -> TokenizedSet:
        """Render and tokenize the rows.

        Args:
            rows: The set.
            source: The file they came from; errors name it.
            emit: Told of the progress.

        Raises:
            BadRowsError: The template does not take some rows; each is named.
            NoUsableRowsError: No row is left.
        """
        progress = PhaseProgress(emit, f"tokenize {self.name}", len(rows))
        facts, bad, done = SetFacts(), BadLines(), 0
        with SetWriter(self.folder, self.name) as writer:
            for size, piece in self._pieces(rows):
                writer.write(piece.tokens, piece.mask, piece.lengths)
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
        facts.rows, facts.tokens, facts.trained_tokens = writer.rows, writer.tokens, writer.trained_tokens
        return TokenizedSet(PreparedSet.load(self.folder, self.name), facts)

    def _pieces(self, rows: Sequence[Row]) -> Iterator[tuple[int, Done]]:
        """The set in pieces: how many rows each was, and what became of them."""
        spool, numbers = numbered(rows)
        sizes = spool.size_bytes(numbers)
        large = int(sizes.sum()) >= LEAST_BYTES
        tokenizer = Pieces(
            self.template,
            spool,
            numbers,
            max_length=self.max_length,
            completion_only=self.completion_only,
            held_out=self.name != TRAIN,
            large=large,
        )
        cuts = _cuts(sizes)
        if large and self.processes > 1:
            tokenizer.warm_up()
            with closing(forks.shared_out(tokenizer.short_piece, cuts, self.processes)) as shared:
                for cut, piece in shared:
                    yield cut[1] - cut[0], piece or tokenizer.piece(cut)
        else:
            for cut in cuts:
                yield cut[1] - cut[0], tokenizer.piece(cut)


def _cuts(sizes: NDArray[np.int64]) -> Iterator[Cut]:
    """A set cut into pieces: from which row and to which."""
    ends = np.cumsum(sizes)
    at = 0
    while at < len(sizes):
        full = int(np.searchsorted(ends, int(ends[at] - sizes[at]) + PIECE_BYTES, side="right"))
        end = min(max(full, at + 1), at + PIECE_ROWS, len(sizes))
        yield at, end
        at = end


def report_bad(data: DataFile, emit: Emit) -> None:
    """Tell of a file's bad lines, the first hundred one by one, in a note."""
    bad = data.bad
    if bad.total:
        lines = [f"  {line}. Fix: {line.fix}." for line in bad.shown]
        rest = [f"  … and {bad.total - len(lines)} more"] if bad.total > len(lines) else []
        counts = ", ".join(f"{count} {kind}" for kind, count in bad.counts.most_common())
        emit("note", level="warning", message="\n".join([f"bad lines in {data.path.name} ({counts}):", *lines, *rest]))
