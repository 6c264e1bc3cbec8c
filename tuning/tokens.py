"""A set of rows as tokens: rendered, tokenized in batches, cut to length, and what was found out on the way.

Rows come from disk and tokens go to disk, so a set may be larger than memory. While a thread tokenizes one batch (the
tokenizers library lets Python run meanwhile), the next is read and rendered and the masks of the last are made.

A row is cut at its end. One that has no token with loss left after that is dropped, and so is a held-out row whose
prompt alone fills the length; both are counted, with their line numbers.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings.errors import DataError
from .formats import BadRowsError, DataFile, Row
from .lines import BadLine, BadLines
from .masks import trained_ranges
from .prepared import TRAIN, PreparedSet, SetWriter
from .progress import PhaseProgress
from .protocol import Emit
from .receipt import KEPT_LINES, SetFacts
from .shapes import Shapes
from .templates import ChatTemplate, Rendered, TemplateRefusalError, backend

if TYPE_CHECKING:
    from tokenizers import Encoding

BATCH_ROWS = 1000
BATCH_CHARACTERS = 500_000
"""A batch ends at either; an encoding takes about 150 bytes a token while it is looked at."""
BOUNDARY_ROWS = 100
"""So many training rows are checked for a token that prompt and answer share; held-out rows are all checked."""


class NoUsableRowsError(DataError):
    """Every row of a set was cut down to nothing that can be learned or measured."""


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """A set of rows as tokens on disk, and what was found out."""

    rows: PreparedSet
    facts: SetFacts


@dataclass(slots=True)
class _Batch:
    """Rows on their way; ``asked`` are the prompts of the first of them, as users will write them."""

    rows: list[Row] = field(default_factory=list[Row])
    rendered: list[Rendered] = field(default_factory=list[Rendered])
    asked: list[str] = field(default_factory=list[str])
    characters: int = 0


_Encoded = tuple[list["Encoding"], list[list[int]]]


@dataclass(slots=True)
class Tokenization:
    """One pass over a set of rows.

    Args:
        template: In force.
        name: The set's.
        folder: Where the set's files are written.
        max_length: Rows are cut to so many tokens.
        completion_only: Loss on the assistant's words only, else on everything.
    """

    template: ChatTemplate
    name: str
    folder: Path = field(kw_only=True)
    max_length: int = field(kw_only=True)
    completion_only: bool = field(kw_only=True)
    _facts: SetFacts = field(default_factory=SetFacts, init=False)
    _bad: BadLines = field(default_factory=BadLines, init=False)

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
        with SetWriter(self.folder, self.name) as writer:
            done = 0
            for batch, encoded in self._encoded(rows):
                self._finish(batch, encoded, writer)
                done += len(batch.rows)
                progress.at(done)
        progress.end()
        source.bad = self._bad
        report_bad(source, emit)
        if self._bad.total:
            raise BadRowsError(source.path.name, self._bad, source.lines)
        if not writer.rows:
            writer.discard()
            raise NoUsableRowsError(
                f"no row of the set {self.name} ({source.path.name}) can be used: with at most {self.max_length} "
                "tokens a row, every answer is cut off.",
                hint="Raise max_length, shorten the prompts, or take a base with a longer context.",
            )
        facts = self._facts
        facts.rows, facts.tokens, facts.trained_tokens = writer.rows, writer.tokens, writer.trained_tokens
        return TokenizedSet(PreparedSet.load(self.folder, self.name), facts)

    def _encoded(self, rows: Sequence[Row]) -> Iterator[tuple[_Batch, _Encoded]]:
        """Batches with their encodings; the next batch is rendered while a thread encodes one."""
        inner = backend(self.template.tokenizer)

        def encode(batch: _Batch) -> _Encoded:
            prompts = inner.encode_batch(batch.asked, add_special_tokens=False)
            texts = [rendered.text for rendered in batch.rendered]
            return inner.encode_batch(texts, add_special_tokens=False), [prompt.ids for prompt in prompts]

        with ThreadPoolExecutor(1, "tokenizer") as background:
            waiting: tuple[_Batch, Future[_Encoded]] | None = None
            for batch in self._rendered(rows):
                following = (batch, background.submit(encode, batch))
                if waiting:
                    yield waiting[0], waiting[1].result()
                waiting = following
            if waiting:
                yield waiting[0], waiting[1].result()

    def _rendered(self, rows: Sequence[Row]) -> Iterator[_Batch]:
        shapes, control, batch = Shapes(self.template), _ControlWords(self.template), _Batch()
        prompts = BOUNDARY_ROWS if self.name == TRAIN else len(rows)
        for row in rows:
            self._facts.control_words += control.stand_in(row)
            try:
                text = shapes.rendered(row, completion_only=self.completion_only)
                if prompts > 0:
                    batch.asked.append(shapes.prompt(row))
                    prompts -= 1
            except TemplateRefusalError as error:
                self._refuse(row, error)
                continue
            batch.rows.append(row)
            batch.rendered.append(text)
            batch.characters += len(text.text)
            if len(batch.rows) == BATCH_ROWS or batch.characters > BATCH_CHARACTERS:
                yield batch
                batch = _Batch()
        if batch.rows:
            yield batch

    def _refuse(self, row: Row, error: TemplateRefusalError) -> None:
        reason = f"the base's chat template refuses the row: {str(error).rstrip('.')}"
        fix = "change the row's turns, or name another template"
        self._bad.add(BadLine(row.line, 1, None, "template", reason, fix))

    def _finish(self, batch: _Batch, encoded: _Encoded, writer: SetWriter) -> None:
        """Cut, mask and write a batch."""
        encodings, prompts = encoded
        end_token, special = self.template.end_token, self.template.special_tokens
        kept = _Flat(self.max_length)
        for number, (row, text, encoding) in enumerate(zip(batch.rows, batch.rendered, encodings, strict=True)):
            ids = encoding.ids
            ranges = trained_ranges(encoding, ids, text.text, text.spans, special=special, end_token=end_token)
            self._count(row, text, len(ids), ranges)
            prompt = prompts[number] if number < len(prompts) else None
            if prompt is not None:
                self._facts.boundary_checked += 1
                self._facts.boundary_merged += ids[: len(prompt)] != prompt
            held_out = prompt if self.name != TRAIN else None
            if (held_out and len(held_out) >= self.max_length) or not kept.add(ids, ranges):
                self._drop(row)
            elif held_out is not None:
                reference = self.template.reference(row)
                writer.write_prompt(
                    {"prompt_tokens": held_out, "prompt": _readable(row), "reference": reference, "line": row.line}
                )
        writer.write(*kept.arrays())

    def _count(self, row: Row, text: Rendered, length: int, ranges: list[tuple[int, int]]) -> None:
        facts = self._facts
        facts.lengths.append(length)
        facts.marked_turns += text.marked_turns
        facts.prompt_differs += text.prompt_differs
        facts.system_folded += not self.template.system_role and row.messages[0]["role"] == "system"
        if length > self.max_length:
            facts.truncated += 1
            facts.cut_tokens += length - self.max_length
            cut_trained = sum(max(0, end - max(first, self.max_length)) for first, end in ranges)
            facts.cut_answers += cut_trained > 0
            facts.cut_trained_tokens += cut_trained

    def _drop(self, row: Row) -> None:
        self._facts.dropped += 1
        if len(self._facts.dropped_lines) < KEPT_LINES:
            self._facts.dropped_lines.append(row.line)


class _Flat:
    """Rows as tokens, one after the other."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._ids: list[int] = []
        self._lengths: list[int] = []
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def add(self, ids: list[int], ranges: list[tuple[int, int]]) -> bool:
        """Add a row, cut to length; False, and no row, where none of its tokens with loss are left."""
        limit, at = self._max_length, len(self._ids)
        trained = [(at + first, at + min(end, limit)) for first, end in ranges if first < end and first < limit]
        if not trained:
            return False
        self._ids.extend(ids if len(ids) <= limit else ids[:limit])
        self._lengths.append(len(self._ids) - at)
        for first, end in trained:
            self._firsts.append(first)
            self._ends.append(end)
        return True

    def arrays(self) -> tuple[Any, Any, Any]:
        """Tokens, mask and lengths."""
        size = len(self._ids) + 1
        opened = np.bincount(self._firsts, minlength=size) - np.bincount(self._ends, minlength=size)
        mask = (np.cumsum(opened)[:-1] > 0).astype(np.uint8)
        return np.array(self._ids, dtype=np.int32), mask, np.array(self._lengths, dtype=np.int64)


def report_bad(data: DataFile, emit: Emit) -> None:
    """Tell of a file's bad lines, the first hundred one by one, in a note."""
    bad = data.bad
    if bad.total:
        lines = [f"  {line}. Fix: {line.fix}." for line in bad.shown]
        rest = [f"  … and {bad.total - len(lines)} more"] if bad.total > len(lines) else []
        counts = ", ".join(f"{count} {kind}" for kind, count in bad.counts.most_common())
        emit("note", level="warning", message="\n".join([f"bad lines in {data.path.name} ({counts}):", *lines, *rest]))


def _readable(row: Row) -> str:
    if row.plain:
        return row.halves[0]
    asked = [message for message in row.messages[:-1] if message["role"] != "system"]
    if len(asked) == 1:
        return asked[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in asked)


class _ControlWords:
    """The base's control tokens as they are written; in a row's text they read as the tokens themselves."""

    def __init__(self, template: ChatTemplate) -> None:
        words = [template.token_text(number) for number in sorted(template.special_tokens)]
        self._pattern = re.compile("|".join(map(re.escape, words)))
        self._begins = {word[0] for word in words if word}

    def stand_in(self, row: Row) -> bool:
        """Whether one stands in a row."""
        for message in row.messages:
            words = message["content"]
            for begin in self._begins:
                if begin in words and self._pattern.search(words):
                    return True
        return False
