"""A set of rows as tokens: rendered, tokenized in batches, cut to length, and what was found out on the way.

A row is cut at its end. One that has no token with loss left after that is dropped, and so is a held-out row whose
prompt alone fills the length; both are counted, with their line numbers.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..settings.errors import DataError
from .formats import BadRowsError, DataFile, Row
from .lines import BadLine, BadLines
from .masks import Encoded
from .prepared import TRAIN, PreparedSet
from .protocol import Emit
from .receipt import KEPT_LINES, SetFacts
from .templates import ChatTemplate, Rendered, TemplateRefusalError, backend

BATCH_ROWS = 1000
BOUNDARY_ROWS = 100
"""So many training rows are checked for a token that prompt and answer share; held-out rows are all checked."""


class NoUsableRowsError(DataError):
    """Every row of a set was cut down to nothing that can be learned or measured."""


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """A set of rows as tokens, what was found out, and (held-out sets) the prompts for generation."""

    rows: PreparedSet
    facts: SetFacts
    prompts: list[dict[str, Any]]


@dataclass(slots=True)
class Tokenization:
    """One pass over a set of rows.

    Args:
        template: In force.
        name: The set's.
        max_length: Rows are cut to so many tokens.
        completion_only: Loss on the assistant's words only, else on everything.
    """

    template: ChatTemplate
    name: str
    max_length: int = field(kw_only=True)
    completion_only: bool = field(kw_only=True)
    _facts: SetFacts = field(default_factory=SetFacts, init=False)
    _kept: list[Encoded] = field(default_factory=list[Encoded], init=False)
    _prompts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], init=False)
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
        facts = self._facts
        facts.duplicates = len(rows) - len({row_key(row) for row in rows})
        control = _control_words(self.template)
        for start in range(0, len(rows), BATCH_ROWS):
            emit("phase", phase=f"tokenize {self.name}", done=start, total=len(rows))
            batch = rows[start : start + BATCH_ROWS]
            facts.control_words += sum(_holds(row, control) for row in batch)
            self._batch(batch, prompts=BATCH_ROWS if self.name != TRAIN else BOUNDARY_ROWS - start)
        emit("phase", phase=f"tokenize {self.name}", done=len(rows), total=len(rows))
        source.bad = self._bad
        report_bad(source, emit)
        if self._bad.total:
            raise BadRowsError(source.path.name, self._bad, source.lines)
        if not self._kept:
            raise NoUsableRowsError(
                f"no row of the set {self.name} ({source.path.name}) can be used: with at most {self.max_length} "
                "tokens a row, every answer is cut off.",
                hint="Raise max_length, shorten the prompts, or take a base with a longer context.",
            )
        facts.rows = len(self._kept)
        facts.tokens = sum(len(row.tokens) for row in self._kept)
        facts.trained_tokens = sum(int(row.mask.sum()) for row in self._kept)
        return TokenizedSet(PreparedSet.join(self.name, self._kept), facts, self._prompts)

    def _batch(self, rows: Sequence[Row], *, prompts: int) -> None:
        good: list[Row] = []
        rendered: list[Rendered] = []
        asked: list[str] = []
        for row in rows:
            try:
                text = self.template.rendered(row, completion_only=self.completion_only)
                if len(good) < prompts:
                    asked.append(self.template.prompt(row))
            except TemplateRefusalError as error:
                reason = f"the base's chat template refuses the row: {str(error).rstrip('.')}"
                fix = "change the row's turns, or name another template"
                self._bad.add(BadLine(row.line, 1, None, "template", reason, fix))
                continue
            good.append(row)
            rendered.append(text)
        prompt_tokens = self._prompt_tokens(asked)
        for number, (row, text, whole) in enumerate(zip(good, rendered, self.template.encode(rendered), strict=True)):
            self._count(row, text, whole)
            ids = prompt_tokens[number] if number < len(prompt_tokens) else None
            if ids is not None:
                self._facts.boundary_checked += 1
                self._facts.boundary_merged += whole.tokens[: len(ids)].tolist() != ids
            self._keep(row, whole, ids if self.name != TRAIN else None)

    def _prompt_tokens(self, texts: list[str]) -> list[list[int]]:
        encodings = backend(self.template.tokenizer).encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _count(self, row: Row, text: Rendered, whole: Encoded) -> None:
        facts = self._facts
        facts.lengths.append(len(whole.tokens))
        facts.marked_turns += text.marked_turns
        facts.prompt_differs += text.prompt_differs
        facts.system_folded += not self.template.system_role and row.messages[0]["role"] == "system"
        facts.truncated += len(whole.tokens) > self.max_length
        facts.cut_tokens += max(0, len(whole.tokens) - self.max_length)

    def _keep(self, row: Row, whole: Encoded, prompt_tokens: list[int] | None) -> None:
        cut = Encoded(whole.tokens[: self.max_length], whole.mask[: self.max_length])
        if not cut.mask.any() or (prompt_tokens and len(prompt_tokens) >= self.max_length):
            self._facts.dropped += 1
            if len(self._facts.dropped_lines) < KEPT_LINES:
                self._facts.dropped_lines.append(row.line)
            return
        self._kept.append(cut)
        if prompt_tokens is not None:
            self._prompts.append(
                {
                    "prompt_tokens": prompt_tokens,
                    "prompt": _readable(row),
                    "reference": row.messages[-1]["content"],
                    "line": row.line,
                }
            )


def report_bad(data: DataFile, emit: Emit) -> None:
    """Tell of a file's bad lines, the first hundred one by one, in a note."""
    bad = data.bad
    if bad.total:
        lines = [f"  {line}. Fix: {line.fix}." for line in bad.shown]
        rest = [f"  … and {bad.total - len(lines)} more"] if bad.total > len(lines) else []
        counts = ", ".join(f"{count} {kind}" for kind, count in bad.counts.most_common())
        emit("note", level="warning", message="\n".join([f"bad lines in {data.path.name} ({counts}):", *lines, *rest]))


def row_key(row: Row) -> bytes:
    """What makes two rows equal: their messages."""
    words = json.dumps(row.messages, ensure_ascii=False).encode()
    return hashlib.blake2b(words, digest_size=16).digest()


def _readable(row: Row) -> str:
    asked = [message for message in row.messages[:-1] if message["role"] != "system"]
    if len(asked) == 1:
        return asked[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in asked)


def _holds(row: Row, control: re.Pattern[str] | None) -> bool:
    return control is not None and any(control.search(message["content"]) for message in row.messages)


def _control_words(template: ChatTemplate) -> re.Pattern[str] | None:
    words = [template.token_text(number) for number in sorted(template.special_tokens)]
    return re.compile("|".join(map(re.escape, words))) if words else None
