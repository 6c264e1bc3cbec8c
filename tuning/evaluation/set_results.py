"""Holds the measurements on one held-out set, and makes its metrics, lines and samples of them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...storage.manifest import commit
from ..batches.prepared_set import HeldOutRow, PreparedSet
from ..batches.row_losses import RowLosses
from ..protocol import EvaluateResult
from . import metrics as text
from .base_results import BaseResult
from .generate import Answers
from .measures import TOOL_MEASURES, Line, measured
from .preferences import Preferences, wanted_only
from .readings import Reading
from .result_rows import lines

SAMPLES_PER_SET = 3


@dataclass
class SetResult:
    """The measurements on one held-out set.

    Attributes:
        name: The set's name.
        rows: Its rows.
        answered: The indices of the rows that are answered.
        losses: The losses of the rows, by side (``base``, ``tuned``, rivals).
        answers: The answers to the answered rows, by side.
        key: The key under which the base's side is kept.
        stored: The base's side of an earlier evaluation of the same rows.
        preferences: The pairs or labels of preference rows.
        reference: The losses of the model with which preferences are compared.
        readings: The answers without the template's scaffold, by side.
        references: The wanted answers without the template's scaffold.
    """

    name: str
    rows: list[HeldOutRow]
    answered: list[int]
    losses: dict[str, RowLosses] = field(default_factory=dict[str, RowLosses])
    answers: dict[str, Answers] = field(default_factory=dict[str, Answers])
    key: str = ""
    stored: BaseResult | None = None
    preferences: Preferences | None = None
    reference: RowLosses | None = None
    readings: dict[str, list[Reading]] = field(default_factory=dict[str, list[Reading]])
    references: list[Reading] = field(default_factory=list[Reading])


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a set, without a copy."""

    rows: PreparedSet
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.rows))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.rows[index]


def set_metrics(found: SetResult, wanted: list[str], warnings: list[str]) -> dict[str, Any]:
    """Return the metrics of one set, by side."""
    compared = found.preferences
    rows = len(found.rows) // 2 if compared and compared.paired else len(found.rows)
    values: dict[str, Any] = {"rows": rows, "answered": len(found.answered)}
    references = [reference.words for reference in found.references]
    made = set_lines(found, []) if any(reference.calls is not None for reference in found.references) else []
    for side in found.losses:
        loss = wanted_only(found.losses[side], compared).mean
        numbers: dict[str, Any] = {"eval_loss": loss, "perplexity": text.perplexity(loss)}
        if compared and found.reference:
            numbers |= compared.figures(found.losses[side], found.reference)
        given = found.answers.get(side)
        if given is not None:
            if compared:
                numbers["answer_tokens"] = sum(map(len, given.written)) / max(1, len(given.written))
            readings = found.readings[side]
            texts, failures = text.text_metrics(wanted, references, [reading.words for reading in readings])
            numbers |= texts
            if "exact_match" in texts:
                whole = [reference.text for reference in found.references], [reading.text for reading in readings]
                numbers["exact_match_raw"] = text.exact_match(*whole)
                tools = {name: measured(made, side, name) for name in TOOL_MEASURES}
                numbers |= {name: value for name, value in tools.items() if value is not None}
            numbers["tokens_per_s"] = given.tokens / given.seconds if given.seconds else 0.0
            warnings += [f"{found.name}, {side}: {failure}" for failure in failures]
        values[side] = numbers
    return values


def set_lines(found: SetResult, wanted: list[str]) -> list[Line]:
    """Make the line of each row: losses and answers of each side; of preferences the rewards as well."""
    made = lines(found.rows, found.losses, found.answered, found.readings, wanted, references=found.references)
    if found.preferences is None or found.reference is None:
        return made
    return found.preferences.complete(made, found.losses, found.reference)


def set_samples(found: SetResult) -> list[dict[str, str]]:
    """Return the first answers with their prompt and reference, for the card and the command line."""
    return [
        {
            "set": found.name,
            "prompt": str(found.rows[i]["prompt"]),
            "reference": str(found.rows[i]["reference"]),
            **{side: found.answers[side].texts[n] for side in found.losses},
        }
        for n, i in enumerate(found.answered[:SAMPLES_PER_SET])
    ]


def write_results(
    out_dir: Path, result: EvaluateResult, found: list[SetResult], wanted: list[str], settings: dict[str, Any]
) -> None:
    """Write ``rows.<set>.jsonl`` of each set and ``evaluation.json`` in place of ``out_dir``, whole or not at all."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    staged = out_dir.parent / f".staged-{uuid4().hex}"  # (not mkdtemp: others must be able to read it)
    staged.mkdir()
    try:
        for each in found:
            with (staged / f"rows.{each.name}.jsonl").open("w", encoding="utf-8") as file:
                made = set_lines(each, wanted)
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
        facts = {**result.model_dump(mode="json"), "settings": settings}
        (staged / "evaluation.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
        commit(staged, out_dir, kind="evaluation")
    finally:
        shutil.rmtree(staged, ignore_errors=True)
