"""The rows of an evaluation, ``rows.<set>.jsonl``: what each side answered, and the numbers its measures are made of.

No torch here: ``evaluate`` writes these lines, gates and comparisons read them. A *side* is one of those that answered:
``base``, ``tuned``, and the champion or whoever else was measured on the same rows. A line holds ``row``, ``line``,
``prompt``, ``reference``, ``tokens`` (that carry loss), and for each side ``SIDE`` (its answer), ``exact_SIDE``,
``loss_SIDE`` (nats per token), ``rouge_1_SIDE`` and its kin, ``bleu_SIDE`` (the ten counts of corpus BLEU).
"""

import json
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from . import metrics
from .significance import Measure, Numbers, over, ratio

Line = dict[str, Any]

BLEU_ORDER = 4
"""Corpus BLEU's longest n-gram; a row's counts are system length, reference length, four matches, four totals."""


def bleu(sums: Sequence[float]) -> float:
    """Corpus BLEU, 0 to 100, from summed counts: sacrebleu's default, exponential smoothing included."""
    system, reference, *counts = sums
    matched, total = counts[:BLEU_ORDER], counts[BLEU_ORDER:]
    if not any(matched):
        return 0.0
    logs, smooth, orders = 0.0, 1.0, 0
    for good, every in zip(matched, total, strict=True):
        if not every:
            break
        orders += 1
        smooth *= 1 if good else 2
        logs += math.log(good / every if good else 1 / (smooth * every))
    brevity = min(0.0, 1 - reference / system) if system else -math.inf
    return 100 * math.exp(brevity + logs / BLEU_ORDER) if orders == BLEU_ORDER else 0.0


MEASURES: dict[str, Measure] = {
    "exact_match": ratio,
    "rouge_1": ratio,
    "rouge_2": ratio,
    "rouge_l": ratio,
    "bleu": bleu,
    "eval_loss": ratio,
}
"""What can be compared row by row, and how the rows' numbers become the value of a set."""
LOWER_IS_BETTER = frozenset({"eval_loss"})
LABELS = {
    "exact_match": "exact match",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "eval_loss": "eval loss",
    "preference": "preference",
}
"""What people call them."""
NEEDS = {"exact_match": "exact_match", "rouge_1": "rouge", "rouge_2": "rouge", "rouge_l": "rouge", "bleu": "bleu"}
"""Which of a job's ``metrics`` measures each; the loss is always measured, and people say what they prefer."""


class Losses(Protocol):
    """The losses of a set's rows (scoring.RowLosses)."""

    @property
    def tokens(self) -> list[int]:
        """Trained tokens of each row."""
        ...

    def of_row(self, index: int, /) -> float | None:
        """Nats per trained token of one row."""
        ...


def lines(
    rows: Sequence[Mapping[str, Any]],
    losses: Mapping[str, Losses],
    answered: Sequence[int],
    answers: Mapping[str, Sequence[str]],
    wanted: Sequence[str],
) -> list[Line]:
    """The lines of one set.

    Args:
        rows: The held-out rows: prompt, reference, line.
        losses: Of each row, by side.
        answered: Which rows were answered.
        answers: To those rows, by side.
        wanted: The job's ``metrics``.
    """
    first = next(iter(losses.values()))
    made: list[Line] = [
        {**{name: row.get(name) for name in ("line", "prompt", "reference")}, "row": i, "tokens": first.tokens[i]}
        for i, row in enumerate(rows)
    ]
    for side, found in losses.items():
        for i, line in enumerate(made):
            line |= {side: None, f"exact_{side}": None, f"loss_{side}": found.of_row(i)}
        if side in answers:
            _add_answers([made[i] for i in answered], side, answers[side], wanted)
    return made


def _add_answers(made: list[Line], side: str, answers: Sequence[str], wanted: Sequence[str]) -> None:
    references = [str(line["reference"]) for line in made]
    try:
        scores = metrics.row_scores(wanted, references, answers)
    except Exception:  # noqa: BLE001  (the metric failed over the set before, which is a warning; the answers are kept)
        traceback.print_exc()  # into the job's log
        scores = [dict[str, Any]() for _ in made]
    for line, answer, found in zip(made, answers, scores, strict=True):
        line |= {side: answer, f"exact_{side}": metrics.exact(str(line["reference"]), answer)}
        line |= {f"{name}_{side}": value for name, value in found.items()}


def numbers(line: Line, side: str, name: str) -> Numbers | None:
    """What a row adds to a measure of a side; None where it was not measured."""
    if name == "eval_loss":
        loss, tokens = line.get(f"loss_{side}"), line.get("tokens")
        return None if loss is None or not tokens else (loss * tokens, tokens)
    if name == "bleu":
        return line.get(f"bleu_{side}")
    found = line.get(f"exact_{side}" if name == "exact_match" else f"{name}_{side}")
    return None if found is None else (float(found), 1.0)


def measured(lines: Sequence[Line], side: str, name: str) -> float | None:
    """A measure's value of a side over the rows where it has one; None where there is none."""
    found = [row for line in lines if (row := numbers(line, side, name)) is not None]
    return over(MEASURES[name], found) if found else None


def pairs(lines: Sequence[Line], one: str, other: str, name: str) -> tuple[list[Numbers], list[Numbers]]:
    """A measure's numbers of two sides, over the rows where both have them."""
    found = [(numbers(line, one, name), numbers(line, other, name)) for line in lines]
    both = [(a, b) for a, b in found if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def read(content: bytes) -> list[Line]:
    """The lines of a file of rows."""
    return [json.loads(line) for line in content.decode("utf-8").splitlines() if line]


def identity(lines: Iterable[Line]) -> list[tuple[str, str]]:
    """What makes rows the same rows: prompt and reference of each, in order."""
    return [(str(line["prompt"]), str(line["reference"])) for line in lines]
