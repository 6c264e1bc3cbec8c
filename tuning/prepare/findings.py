"""Finds, before a token is counted, what rows show: repeats, overlap, contradictions, labels, private data.

One pass over the rows records notes (``Notes.add``), 32 bytes a row: four 64-bit numbers, most of them Python's own
hashes, which are quick and only compared within this process. The findings are then computed from the notes, in numpy.
Two rows are the same *exactly*, or *normalised*: in Unicode's NFKC, without case, and with every run of white space as
one space.
"""

import importlib
import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnavailableError
from ..plain_text import normalised
from ..rows.row import Example, Message, Preference, Row, Unpaired
from .privacy import find, masked

SHOWN_LINES = 20
MOST_LABELS = 50
LABEL_CHARACTERS = 60
ROWS_A_LABEL = 5
"""From this many rows for each distinct short answer on, answers count as labels."""
ONE_SIDED = 0.8
FEW_A_LABEL = 50
SHINGLE_WORDS = 5
SKETCH_SLOTS = 128
SEED = 42
BATCH_ROWS = 10_000


def _numbers() -> "array[int]":
    return array("q")


@dataclass(slots=True)
class Notes:
    """Holds the notes of the rows of one set."""

    exact: "array[int]" = field(default_factory=_numbers)
    normal: "array[int]" = field(default_factory=_numbers)
    prompts: "array[int]" = field(default_factory=_numbers)
    lines: "array[int]" = field(default_factory=_numbers)
    better: "array[int]" = field(default_factory=_numbers)
    worse: "array[int]" = field(default_factory=_numbers)
    turns: int = 0
    structured: int = 0
    labels: Counter[str] | None = field(default_factory=Counter[str])
    sensitive: dict[str, int] = field(default_factory=dict[str, int])
    sensitive_lines: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, row: Example) -> None:
        """Record a row in the notes; of a preference, its prompt and both answers count as its text."""
        if not isinstance(row, Row):
            self._compare(row)
            row = _as_one(row)
        roles = [message["role"] for message in row.messages]
        said = [_words(message) for message in row.messages]
        tools = json.dumps(row.tools, sort_keys=True) if row.tools else ""
        normal, answer = list(map(normalised, said)), said[-1]
        self.exact.append(hash((tools, *roles, *said)))
        self.normal.append(hash((tools, *roles, *normal)))
        normal.pop()
        self.prompts.append(hash((tools, *roles, *normal)) if normal else 0)
        self.lines.append(row.line)
        self.turns += roles.count("assistant") - (roles[-1] == "assistant")
        self.structured += answer.lstrip()[:1] in ("{", "[") and answer.rstrip()[-1:] in ("}", "]")
        if self.labels is not None:
            self._label(answer)
        if found := find("\n".join(said)):
            self._private(row.line, found)

    def _compare(self, example: Preference | Unpaired) -> None:
        """Record which answer to a prompt is called better and which worse; 0 where a row has only one answer."""
        self.labels = None  # answers of preferences are compared, they are no labels
        prompt = tuple((message["role"], normalised(_words(message))) for message in example.prompt)

        def key(answer: list[Message]) -> int:
            return hash((prompt, *(normalised(_words(message)) for message in answer)))

        if isinstance(example, Preference):
            self.better.append(key(example.chosen))
            self.worse.append(key(example.rejected))
        else:
            self.better.append(key(example.completion) if example.label else 0)
            self.worse.append(0 if example.label else key(example.completion))

    def _label(self, answer: str) -> None:
        assert self.labels is not None  # noqa: S101  (the caller has checked)
        self.labels[answer.strip()[: LABEL_CHARACTERS + 1]] += 1
        self._forget_labels()

    def _forget_labels(self) -> None:
        """Stop collecting labels: this many different answers are no labels."""
        if self.labels is not None and len(self.labels) > MOST_LABELS:
            self.labels = None

    def _private(self, line: int, found: list[tuple[str, int, int]]) -> None:
        for kind in {kind for kind, _, _ in found}:
            self.sensitive[kind] = self.sensitive.get(kind, 0) + 1
            lines = self.sensitive_lines.setdefault(kind, [])
            if len(lines) < SHOWN_LINES:
                lines.append(line)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Holds the rows of one set that repeat the text of an earlier row.

    Attributes:
        of: For each row the number of the earlier row that it repeats, or -1.
        exact: Number of rows that repeat an earlier row to the letter.
        normalised: Number of rows that only differ in case, white space or Unicode form.
        near: Number of rows that share most of their words with an earlier row.
    """

    of: NDArray[np.int64]
    exact: int
    normalised: int
    near: int = 0

    @property
    def total(self) -> int:
        """Return the number of all repeats."""
        return self.exact + self.normalised + self.near


def repeats(notes: Notes, rows: Sequence[Row] = (), near: float | None = None) -> Repeats:
    """Find the rows that repeat an earlier row.

    Args:
        notes: The notes of the rows.
        rows: The rows themselves, needed for near-duplicates only.
        near: Similarity (Jaccard, of runs of five words) from which rows are near-duplicates; None skips the search.
    """
    exactly, normally = _earlier(notes.exact), _earlier(notes.normal)
    exact = int((exactly >= 0).sum())
    repeated = int((normally >= 0).sum())
    near_ones = _near(rows, normally, near) if near is not None and len(rows) else 0
    return Repeats(normally, exact, repeated - exact, near_ones)


def _earlier(keys: "array[int]") -> NDArray[np.int64]:
    """Return for each key the place of its first occurrence if that is an earlier one, else -1."""
    values = np.frombuffer(keys, dtype=np.int64) if keys else np.zeros(0, dtype=np.int64)
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    earlier = first[which].astype(np.int64)
    earlier[earlier == np.arange(len(values))] = -1
    return earlier


def _near(rows: Sequence[Row], of: NDArray[np.int64], threshold: float) -> int:
    """Mark near-duplicates in ``of``, by MinHash and locality-sensitive hashing; return their number.

    MinHash (Broder 1997) estimates the Jaccard similarity of two sets of word runs from 128 numbers each, with a
    standard error of at most 1 / sqrt(128), 9 percentage points at worst. LSH may miss a pair near the threshold.
    """
    rensa = _rensa()
    index = rensa.RMinHashDeduplicator(threshold=threshold, num_perm=SKETCH_SLOTS, use_lsh=True, seed=SEED)
    left = np.flatnonzero(of < 0)
    count = 0
    for start in range(0, len(left), BATCH_ROWS):
        batch = [int(number) for number in left[start : start + BATCH_ROWS]]
        kept: list[bool] = index.add_pairs([(str(number), shingles(rows[number])) for number in batch])
        for number, fresh in zip(batch, kept, strict=True):
            if not fresh:
                of[number] = _like(index, rows[number])
                count += 1
    return count


def _like(index: Any, row: Row) -> int:
    """Return the first row in the index of which the row is a near-duplicate."""
    sketch = _rensa().RMinHash(SKETCH_SLOTS, SEED)
    sketch.update(shingles(row))
    return min(map(int, index.get_duplicates(sketch)))


def _rensa() -> Any:
    try:
        return importlib.import_module("rensa")  # imported only on request; the library carries no types
    except ModuleNotFoundError:
        raise UnavailableError(
            "near_duplicates needs the package rensa, which is not installed.", hint="Run: pip install 'celora[train]'"
        ) from None


def shingles(row: Row) -> list[str]:
    """Return the runs of five words of a row, normalised; a shorter row is one run."""
    words = " ".join(normalised(_words(message)) for message in row.messages).split()
    if len(words) <= SHINGLE_WORDS:
        return [" ".join(words)]
    return [" ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)]


def repeats_facts(notes: Notes, found: Repeats, *, dropped: bool) -> dict[str, Any]:
    """Return the repeats in the receipt's form, the first lines with the line that each repeats."""
    where = np.flatnonzero(found.of >= 0)[:SHOWN_LINES].tolist()
    return {
        "exact": found.exact,
        "normalised": found.normalised,
        "near": found.near,
        "dropped": found.total if dropped else 0,
        "lines": [{"line": notes.lines[row], "repeats": notes.lines[int(found.of[row])]} for row in where],
    }


def overlap_facts(train: Notes, held_out: Notes) -> dict[str, Any]:
    """Count the held-out rows, and the held-out prompts, that training sees too."""
    exact = np.isin(held_out.exact, train.exact)
    normal = np.isin(held_out.normal, train.normal)
    prompts = np.isin(held_out.prompts, train.prompts) & (np.array(held_out.prompts) != 0)
    where = np.flatnonzero(normal)[:SHOWN_LINES].tolist()
    return {
        "exact": int(exact.sum()),
        "normalised": int(normal.sum()) - int(exact.sum()),
        "prompts": int((prompts & ~normal).sum()),
        "lines": [held_out.lines[row] for row in where],
    }


def conflict_facts(notes: Notes) -> dict[str, Any]:
    """Find prompts that occur several times with different answers (prompts and answers compared normalised).

    For preferences, where different answers are expected, find answers to a prompt that are the better one in one row
    and the worse one in another.
    """
    if notes.better:
        return _contradictions(notes)
    prompts = np.array(notes.prompts, dtype=np.int64)
    _, first = np.unique(np.array(notes.normal, dtype=np.int64), return_index=True)  # one row of each prompt and answer
    asked, answers = np.unique(prompts[first], return_counts=True)
    contested = asked[(answers > 1) & (asked != 0)]
    shown = [
        sorted(notes.lines[int(row)] for row in first[prompts[first] == prompt]) for prompt in contested[:SHOWN_LINES]
    ]
    return {
        "prompts": len(contested),
        "rows": int(np.isin(prompts, contested).sum()),
        "lines": sorted(lines[:5] for lines in shown),
    }


def _contradictions(notes: Notes) -> dict[str, Any]:
    better, worse = np.array(notes.better, dtype=np.int64), np.array(notes.worse, dtype=np.int64)
    contested = np.setdiff1d(np.intersect1d(better, worse), np.zeros(1, dtype=np.int64))
    rows = np.isin(better, contested) | np.isin(worse, contested)
    shown = [np.flatnonzero((better == answer) | (worse == answer)) for answer in contested[:SHOWN_LINES]]
    return {
        "prompts": len(contested),
        "rows": int(rows.sum()),
        "lines": sorted([notes.lines[int(row)] for row in places[:5]] for places in shown),
    }


def sensitive_facts(notes: Notes) -> dict[str, Any]:
    """Report rows with likely secrets and personal data, by kind: how many and where, never the data itself."""
    return {
        kind: {"rows": rows, "lines": notes.sensitive_lines[kind]}
        for kind, rows in sorted(notes.sensitive.items(), key=lambda item: -item[1])
    }


def label_facts(notes: Notes) -> dict[str, Any] | None:
    """Report the distribution of the answers that are labels; None where the answers are free text."""
    labels = notes.labels
    if not labels or len(notes) < ROWS_A_LABEL * len(labels) or max(map(len, labels)) > LABEL_CHARACTERS:
        return None
    (top, rows), (rarest, fewest) = labels.most_common(1)[0], labels.most_common()[-1]
    return {
        "distinct": len(labels),
        "most": {"label": masked(top), "rows": rows, "share": round(rows / len(notes), 4)},
        "fewest": {"label": masked(rarest), "rows": fewest},
        "one_sided": rows / len(notes) >= ONE_SIDED,
    }


def task_facts(notes: Notes, labels: dict[str, Any] | None, *, plain_text: bool = False) -> dict[str, Any]:
    """Guess the kind of task from the rows, and report if there are enough rows.

    100 to 500 rows teach a style or format, 1,000 to 5,000 a moderate task, 10,000 to 50,000 a complex one; a label
    wants 50 examples of its own. Rules of thumb of the field (OpenAI's and Together's fine-tuning guides), not
    measurements on this data.
    """
    rows = len(notes)
    if notes.better:
        advice = "a style wants 100 to 500 preferences, a moderate task 1,000 to 5,000"
        return _task("preferences", 100, rows, advice)
    if plain_text:
        return _task("continued pre-training", 10_000, rows, "plain text teaches words and facts, not how to answer")
    if labels is not None:
        wanted = max(100, FEW_A_LABEL * labels["distinct"])
        return _task("classification", wanted, rows, f"{FEW_A_LABEL} rows for each of {labels['distinct']} labels")
    if rows and notes.structured >= 0.9 * rows:
        return _task("structured output", 500, rows, "a format wants 100 to 500 rows, with the odd cases among them")
    if rows and 2 * notes.turns >= rows:
        return _task(
            "conversation", 1_000, rows, "a style wants 100 to 500 rows, a task of several turns 1,000 to 5,000"
        )
    advice = "a style or format wants 100 to 500 rows, a moderate task 1,000 to 5,000, a complex one 10,000 to 50,000"
    return _task("answers", 100, rows, advice)


def _task(kind: str, wanted: int, rows: int, advice: str) -> dict[str, Any]:
    return {"kind": kind, "rows": rows, "rows_wanted": wanted, "enough": rows >= wanted, "advice": advice}


def _as_one(example: Preference | Unpaired) -> Row:
    """Convert a preference to one row whose last message is the answer to its prompt."""
    answers = [example.chosen, example.rejected] if isinstance(example, Preference) else [example.completion]
    label = str(example.label) if isinstance(example, Unpaired) else ""
    said = "\n".join([*(_words(message) for answer in answers for message in answer), label]).strip()
    return Row([*example.prompt, {"role": "assistant", "content": said}], [], example.line, example.tools)


def _words(message: dict[str, Any]) -> str:
    """Return the words of a message; tool calls and other values as JSON."""
    content = message.get("content")
    if type(content) is str and len(message) == 2:  # noqa: PLR2004  (role and content)
        return content
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    if isinstance(content, str) and not rest:
        return content
    return f"{content or ''} {json.dumps(rest, sort_keys=True, ensure_ascii=False, default=str)}"
