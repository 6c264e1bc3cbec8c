"""Builds the receipt: the findings of ``prepare`` and ``check`` about the data, as one JSON object.

The parts are plain values, so that the receipt goes into ``receipt.json``, the job's record and a program alike; the
command line renders it (cli/receipt.py), and docs/receipt.md says how to read it. Only the sample and the labels hold
text of a row, and there likely secrets and personal data are masked.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches.prepared_set import TRAIN
from ..rows.data_file import DataFile
from ..rows.row import Row
from ..templates.prompt_border import JOINED
from ..templates.turns import MOST_TURNS
from . import findings
from .findings import Notes, Repeats
from .privacy import masked

VERSION = 2
SUPERVISED, PREFERENCE = "supervised", "preference"
"""The kinds of training that rows are for."""

KEPT_LINES = 100


def _numbers() -> "array[int]":
    return array("q")  # eight bytes a row, which matters for a million rows


@dataclass(slots=True)
class SetFacts:
    """Holds the findings of tokenizing a set of rows; lengths are before truncation, in tokens."""

    rows: int = 0
    lengths: "array[int]" = field(default_factory=_numbers)
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    cut_answers: int = 0
    cut_trained_tokens: int = 0
    too_long: int = 0
    dropped: int = 0
    dropped_lines: list[int] = field(default_factory=list[int])
    control_words: int = 0
    system_folded: int = 0
    marked_turns: int = 0
    prompt_differs: int = 0
    history_differs: int = 0
    lost_turns: list[str] = field(default_factory=list[str])
    turns_left_out: int = 0
    boundary_checked: int = 0
    boundary_merged: int = 0
    boundary_apart: int = 0

    def extend(self, other: "SetFacts") -> None:
        """Add the findings of the rows that follow."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, int):
                setattr(self, each.name, mine + theirs)
            else:
                mine.extend(theirs)
        del self.dropped_lines[KEPT_LINES:]


@dataclass(frozen=True, slots=True)
class Warned:
    """Holds a warning to a person that stops nothing; ``name`` is a stable word for programs."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Holds the findings about the rows of all files, before a token is counted.

    Attributes:
        notes: Notes by set.
        repeats: Repeats among the training rows.
        dropped: True if repeated training rows are left out.
    """

    notes: dict[str, Notes]
    repeats: Repeats
    dropped: bool

    @classmethod
    def of(
        cls, notes: dict[str, Notes], *, drop: bool, near: float | None = None, rows: Sequence[Row] = ()
    ) -> "Survey":
        """Compute the findings from the notes of the good rows of every file.

        Args:
            notes: Notes by set.
            drop: True to leave repeated training rows out.
            near: Similarity from which a row repeats another one; None counts equal rows only.
            rows: The training rows; needed for ``near`` alone.
        """
        return cls(notes, findings.repeats(notes[TRAIN], rows, near), drop)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Return for each training row True if it stays; the others are repeats that are left out."""
        return (self.repeats.of < 0) | (not self.dropped)

    def facts(self, format_name: str) -> dict[str, Any]:
        """Return the receipt's part about the rows."""
        train = self.notes[TRAIN]
        labels = findings.label_facts(train)
        return {
            "duplicates": findings.repeats_facts(train, self.repeats, dropped=self.dropped),
            "conflicts": findings.conflict_facts(train),
            "overlap": {
                name: findings.overlap_facts(train, notes) for name, notes in self.notes.items() if name != TRAIN
            },
            "sensitive": {name: findings.sensitive_facts(notes) for name, notes in self.notes.items()},
            "labels": labels,
            "task": findings.task_facts(train, labels, plain_text=format_name == "text"),
        }


def file_facts(name: str, data: DataFile) -> dict[str, Any]:
    """Return the findings of reading a file: every kind of bad line, and the first hundred lines of each."""
    return {
        "set": name,
        "name": data.path.name,
        "sha256": data.sha256,
        "size_bytes": data.size_bytes,
        "lines": data.lines,
        "rows": data.good,
        "format": data.format,
        "rows_by_format": dict(data.by_format),
        "ignored_keys": dict(data.ignored_keys.most_common(20)),
        "notes": data.notes,
        "bad": {
            "total": data.bad.total,
            "counts": dict(data.bad.counts.most_common()),
            "lines": [{**asdict(bad), "reason": masked(bad.reason)} for bad in data.bad.shown],
        },
    }


def set_facts(facts: SetFacts) -> dict[str, Any]:
    """Return the findings of tokenizing a set."""
    return {
        "rows": facts.rows,
        "tokens": facts.tokens,
        "trained_tokens": facts.trained_tokens,
        "trained_share": round(facts.trained_tokens / facts.tokens, 4) if facts.tokens else 0.0,
        "tokens_per_row": token_histogram(np.array(facts.lengths, dtype=np.int64)),
        "truncated": facts.truncated,
        "cut_tokens": facts.cut_tokens,
        "rows_that_lose_answer": facts.cut_answers,
        "cut_trained_tokens": facts.cut_trained_tokens,
        "too_long": facts.too_long,
        "dropped": facts.dropped,
        "dropped_lines": facts.dropped_lines,
        "rows_with_control_words": facts.control_words,
        "rows_with_system_text_moved": facts.system_folded,
        "rows_with_another_history": facts.history_differs,
        "turns_found_by_mark": facts.marked_turns,
        "rows_with_another_prompt": facts.prompt_differs,
        "turns_without_loss": dict(Counter(facts.lost_turns)),
        "turns_left_out": facts.turns_left_out,
        "boundary": {
            "checked": facts.boundary_checked,
            "apart": facts.boundary_apart,
            "merged": facts.boundary_merged,
        },
    }


def refused(
    files: Mapping[str, DataFile], survey: Survey | None, sets: Mapping[str, SetFacts] | None = None
) -> dict[str, Any]:
    """Build the receipt of data that is not trained on: its faults, and the findings about the good rows.

    Args:
        files: The results of reading the files.
        survey: The findings about the rows.
        sets: The findings of tokenizing the rows, if they were tokenized.
    """
    return {
        "version": VERSION,
        "ok": False,
        "method": SUPERVISED if all(data.trains for data in files.values()) else PREFERENCE,
        "files": [file_facts(name, data) for name, data in files.items()],
        "rows": survey.facts(files[TRAIN].format) if survey else None,
        "sets": {name: set_facts(facts) for name, facts in (sets or {}).items()},
        "warnings": [asdict(warned) for warned in row_warnings(survey, refused=True)] if survey else [],
    }


def row_warnings(survey: Survey, *, refused: bool = False) -> Iterator[Warned]:
    """Yield warnings about the rows, as sentences for a person.

    Args:
        survey: The findings about the rows.
        refused: True if the rows are refused, so that none of them is used.
    """
    found, train = survey.repeats, survey.notes[TRAIN]
    if found.total:
        kinds = ((found.exact, "exactly"), (found.normalised, "but for case and white space"), (found.near, "nearly"))
        how = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
        done = "" if refused else ": left out" if survey.dropped else ": kept, as asked"
        yield Warned("duplicates", f"{_rows(found.total)} of {TRAIN} repeat another one ({how}){done}")
    conflicts = findings.conflict_facts(train)
    if conflicts["prompts"]:
        number = conflicts["prompts"]
        asked = "1 prompt is" if number == 1 else f"{number} prompts are"
        at = ", ".join(map(str, conflicts["lines"][0]))
        if train.better:
            asked = "1 answer is" if number == 1 else f"{number} answers are"
            yield Warned("conflicts", f"{asked} the better one in a row and the worse one in another (lines {at})")
        else:
            yield Warned("conflicts", f"{asked} answered in different ways (lines {at}, for example)")
    for name, notes in survey.notes.items():
        if name != TRAIN:
            yield from _overlap(name, findings.overlap_facts(train, notes))
        sensitive = findings.sensitive_facts(notes)
        if sensitive:
            kinds_found = ", ".join(f"{kind} in {_rows(facts['rows'])}" for kind, facts in sensitive.items())
            first = min(facts["lines"][0] for facts in sensitive.values())
            yield Warned(
                "sensitive", f"{name} likely holds secrets or personal data: {kinds_found}; first, line {first}"
            )
    labels = findings.label_facts(train)
    if labels and labels["one_sided"]:
        most = labels["most"]
        yield Warned(
            "one_sided", f"{most['share']:.0%} of the answers are {most['label']!r}, so always saying it is easy"
        )
    task = findings.task_facts(train, labels)
    if not task["enough"]:
        yield Warned("few_rows", f"only {_rows(task['rows'], 'training row')}; {task['advice']}")


def _overlap(name: str, facts: dict[str, Any]) -> Iterator[Warned]:
    shared = facts["exact"] + facts["normalised"]
    if shared:
        yield Warned(
            "overlap", f"{name} shares {shared} of its rows with the training rows, so its metrics look too good"
        )
    if facts["prompts"]:
        yield Warned("prompt_overlap", f"{name} asks {facts['prompts']} times what training rows ask too")


def set_warnings(name: str, facts: SetFacts, max_length: int) -> Iterator[Warned]:
    """Yield warnings about a set, as sentences for a person."""
    if facts.truncated:
        lost = (
            f" ({facts.cut_trained_tokens} of the answers of {_rows(facts.cut_answers)})" if facts.cut_answers else ""
        )
        yield Warned(
            "truncated",
            f"cut {facts.truncated} of {_rows(len(facts.lengths))} of {name} to {max_length} tokens: {facts.cut_tokens}"
            f" tokens lost{lost}; the longest row has {max(facts.lengths)}",
        )
    if facts.too_long:
        yield Warned(
            "too_long", f"left out {_rows(facts.too_long)} of {name} longer than {max_length} tokens, as asked"
        )
    if facts.dropped:
        yield Warned(
            "no_answer_left",
            f"dropped {_rows(facts.dropped)} of {name}: within {max_length} tokens nothing of the answer is left",
        )
    yield from _template_warnings(name, facts)


def _template_warnings(name: str, facts: SetFacts) -> Iterator[Warned]:
    """Yield warnings about the text that the chat template makes of a set's rows."""
    if facts.control_words:
        yield Warned(
            "control_words",
            f"{name} has {_rows(facts.control_words)} with a control token of the base as text, which reads as one",
        )
    if facts.system_folded:
        yield Warned(
            "system_moved",
            f"the chat template has no system role: put the system text of {_rows(facts.system_folded)} of {name}"
            " before the first user message; prompts must do the same",
        )
    if facts.prompt_differs:
        yield Warned(
            "another_prompt",
            f"{name} has {_rows(facts.prompt_differs)} whose answer does not begin where the template's generation"
            " prompt ends, so answers may begin differently in use",
        )
    if facts.history_differs:
        yield Warned(
            "another_history",
            f"{name} has {_rows(facts.history_differs)} whose later answers follow earlier ones with their thoughts, as"
            " the training form writes them; prompts in use leave these thoughts out",
        )
    for what, number in Counter(facts.lost_turns).items():
        found = (
            f"{name} has {_rows(number, 'turn')} with {what}"
            if what == JOINED
            else (f"the chat template leaves out {what} in {_rows(number, 'turn')} of {name}")
        )
        yield Warned(
            "words_left_out",
            f"{found}, which therefore carry no loss; turns = each trains every answer as a row of its own",
        )
    if facts.turns_left_out:
        yield Warned(
            "turns_left_out",
            f"{name} has conversations of over {MOST_TURNS} answers: {facts.turns_left_out} early ones carry no loss",
        )
    if facts.boundary_merged:
        yield Warned(
            "shared_token",
            f"{name} has {facts.boundary_merged} of {_rows(facts.boundary_checked)} in which the end of the prompt and"
            " the start of the answer share a token",
        )


def _rows(number: int, noun: str = "row") -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def token_histogram(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Count tokens a row before truncation: min, p50, p95, max (nearest rank) and rows by powers of two."""
    if not len(lengths):
        return {"min": 0, "p50": 0, "p95": 0, "max": 0, "bins": []}
    ordered = np.sort(lengths)
    p50, p95 = (int(ordered[max(0, -(-len(ordered) * share // 100) - 1)]) for share in (50, 95))
    powers = np.maximum(np.ceil(np.log2(np.maximum(lengths, 1))).astype(int), 4)
    found, counts = np.unique(powers, return_counts=True)
    bins = [{"up_to": 2 ** int(power), "rows": int(rows)} for power, rows in zip(found, counts, strict=True)]
    return {"min": int(ordered[0]), "p50": p50, "p95": p95, "max": int(ordered[-1]), "bins": bins}
