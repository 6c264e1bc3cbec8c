"""The receipt: what ``prepare`` found out about the data, as JSON for programs and as text for people.

Its parts are plain values, so that it goes into ``receipt.json``, the job's record and a terminal alike. In the text
the words that carry loss stand between marks; a terminal may put a colour in their place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import DataFile
from .masks import Encoded

KEPT_LINES = 100
SAMPLE_CHARACTERS = 4000


@dataclass(slots=True)
class SetFacts:
    """What tokenizing a set of rows brought to light; lengths are before truncation, in tokens."""

    rows: int = 0
    lengths: list[int] = field(default_factory=list[int])
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    cut_tokens: int = 0
    dropped: int = 0
    dropped_lines: list[int] = field(default_factory=list[int])
    duplicates: int = 0
    control_words: int = 0
    system_folded: int = 0
    marked_turns: int = 0
    prompt_differs: int = 0
    boundary_checked: int = 0
    boundary_merged: int = 0


def file_facts(name: str, data: DataFile) -> dict[str, Any]:
    """What reading a file brought to light."""
    return {
        "set": name,
        "name": data.path.name,
        "sha256": data.sha256,
        "size_bytes": data.size_bytes,
        "lines": data.lines,
        "rows": len(data.rows),
        "format": data.format,
        "rows_by_format": dict(data.by_format),
        "ignored_keys": dict(data.ignored_keys.most_common(20)),
        "notes": data.notes,
    }


def set_facts(facts: SetFacts) -> dict[str, Any]:
    """What tokenizing a set brought to light."""
    return {
        "rows": facts.rows,
        "tokens": facts.tokens,
        "trained_tokens": facts.trained_tokens,
        "trained_share": round(facts.trained_tokens / facts.tokens, 4) if facts.tokens else 0.0,
        "tokens_per_row": token_histogram(np.array(facts.lengths, dtype=np.int64)),
        "truncated": facts.truncated,
        "cut_tokens": facts.cut_tokens,
        "dropped": facts.dropped,
        "dropped_lines": facts.dropped_lines,
        "duplicates": facts.duplicates,
        "rows_with_control_words": facts.control_words,
        "rows_with_system_text_moved": facts.system_folded,
        "turns_found_by_mark": facts.marked_turns,
        "rows_with_another_prompt": facts.prompt_differs,
        "boundary": {"checked": facts.boundary_checked, "merged": facts.boundary_merged},
    }


def set_warnings(name: str, facts: SetFacts, max_length: int) -> Iterator[str]:
    """What a person should know about a set, in sentences."""
    if facts.truncated:
        yield (
            f"cut {facts.truncated} of {_rows(len(facts.lengths))} of {name} to {max_length} tokens: {facts.cut_tokens}"
            f" tokens lost, the longest row has {max(facts.lengths)}"
        )
    if facts.dropped:
        yield f"dropped {_rows(facts.dropped)} of {name}: within {max_length} tokens nothing of the answer is left"
    if facts.duplicates:
        yield f"{name} repeats {_rows(facts.duplicates)} exactly"
    if facts.control_words:
        yield f"{name} has {_rows(facts.control_words)} with a control token of the base as text, which reads as one"
    if facts.system_folded:
        yield (
            f"the chat template has no system role: put the system text of {_rows(facts.system_folded)} of {name}"
            " before the first user message; prompts must do the same"
        )
    if facts.prompt_differs:
        yield (
            f"{name} has {_rows(facts.prompt_differs)} whose answer does not begin where the template's generation"
            " prompt ends, so answers may begin differently in use"
        )
    if facts.boundary_merged:
        yield (
            f"{name} has {facts.boundary_merged} of {_rows(facts.boundary_checked)} in which the end of the prompt and"
            " the start of the answer share a token"
        )


def _rows(number: int) -> str:
    return f"{number} row" if number == 1 else f"{number} rows"


def token_histogram(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Tokens a row before truncation: min, p50, p95, max (nearest rank) and rows by powers of two."""
    if not len(lengths):
        return {"min": 0, "p50": 0, "p95": 0, "max": 0, "bins": []}
    ordered = np.sort(lengths)
    p50, p95 = (int(ordered[max(0, -(-len(ordered) * share // 100) - 1)]) for share in (50, 95))
    powers = np.maximum(np.ceil(np.log2(np.maximum(lengths, 1))).astype(int), 4)
    found, counts = np.unique(powers, return_counts=True)
    bins = [{"up_to": 2 ** int(power), "rows": int(rows)} for power, rows in zip(found, counts, strict=True)]
    return {"min": int(ordered[0]), "p50": p50, "p95": p95, "max": int(ordered[-1]), "bins": bins}


def sample_pieces(row: Encoded, decode: Callable[[Sequence[int]], str]) -> list[dict[str, Any]]:
    """A row as text, cut where loss begins and ends: ``[{"text": …, "trained": bool}, …]``."""
    edges = [0, *(np.flatnonzero(np.diff(row.mask)) + 1).tolist(), len(row.mask)]
    pieces: list[dict[str, Any]] = []
    room = SAMPLE_CHARACTERS
    for start, end in pairwise(edges):
        text = decode(row.tokens[start:end].tolist())
        pieces.append({"text": text if len(text) <= room else text[:room] + "…", "trained": bool(row.mask[start])})
        room -= len(text)
        if room <= 0:
            break
    return pieces


def _bracketed(text: str) -> str:
    return f"⟦{text}⟧"


def as_text(receipt: dict[str, Any], mark: Callable[[str], str] = _bracketed) -> str:
    """The receipt for people.

    Args:
        receipt: As ``prepare`` made it.
        mark: How words that carry loss are shown; between ⟦ and ⟧ unless set.
    """
    lines: list[str] = []
    for file in receipt["files"]:
        lines.append(f"{file['name']} ({file['set']}): {file['rows']:,} rows, format {file['format']}")
        lines += [f"  note: {note}" for note in file["notes"]]
    lines.append(f"chat template {receipt['template']}, rows of at most {receipt['max_length']} tokens")
    for name, facts in receipt["sets"].items():
        lines += _set_lines(name, facts)
    lines += [f"warning: {warning}" for warning in receipt["warnings"]]
    lines += ["", "one training row, with what carries loss in marks:", ""]
    lines.append("".join(mark(p["text"]) if p["trained"] else p["text"] for p in receipt["sample"]))
    return "\n".join(lines)


def _set_lines(name: str, facts: dict[str, Any]) -> list[str]:
    spread = facts["tokens_per_row"]
    lines = [
        f"{name}: {facts['rows']:,} rows, {facts['tokens']:,} tokens, {facts['trained_share']:.0%} of them carry loss",
        f"  tokens a row: min {spread['min']}, p50 {spread['p50']}, p95 {spread['p95']}, max {spread['max']}",
    ]
    widest = max((b["rows"] for b in spread["bins"]), default=1)
    lines += [f"  {b['up_to']:>7} {'█' * max(1, 30 * b['rows'] // widest)} {b['rows']:,}" for b in spread["bins"]]
    counts = ((facts["truncated"], "truncated"), (facts["dropped"], "dropped"), (facts["duplicates"], "duplicates"))
    if any(number for number, _ in counts):
        lines.append("  " + ", ".join(f"{number:,} {word}" for number, word in counts if number))
    return lines
