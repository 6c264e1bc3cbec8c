"""Defines the measures of an evaluation: each turns the numbers of single rows into the value of a set.

The functions are pure and take rows in memory; ``result_rows`` writes and reads the files. Unusual: a measure is a
function of column sums (see ``significance``), so one bootstrap serves all of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from .significance import Measure, Numbers, over, ratio

Line = dict[str, Any]
"""One row of ``rows.<set>.jsonl``; ``result_rows`` describes its keys."""

BLEU_ORDER = 4
"""Longest n-gram of corpus BLEU; a row's counts are system length, reference length, four matches, four totals."""


def bleu(sums: Sequence[float]) -> float:
    """Computes corpus BLEU, 0 to 100, from summed counts: sacrebleu's default, exponential smoothing included."""
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


METRICS_VERSION = 4
"""Version of the measures' meaning. Numbers of another version are not compared with these, but measured again.

1: a reference was the row's words, an answer the model's whole output. 2: both sides are words alone, without the
template's scaffold; ``exact_match_raw`` compares the whole texts. 3: an end token that is not special is no word.
4: the calls of functionary behind words, and the second of several calls on lines of their own, are read as calls."""

TOOL_MEASURES = ("tool_name", "tool_arguments", "tool_over", "tool_under")
"""Measures of rows with tools; each has the column ``NAME_SIDE`` in a row's line."""

PREFERENCE_MEASURES = ("reward_accuracy", "reward_margin")
"""Measures of held-out preferences that are compared row by row (``preferences``)."""

MEASURES: dict[str, Measure] = {
    "exact_match": ratio,
    "exact_match_raw": ratio,
    **dict.fromkeys(TOOL_MEASURES, ratio),
    "rouge_1": ratio,
    "rouge_2": ratio,
    "rouge_l": ratio,
    "bleu": bleu,
    "eval_loss": ratio,
    **dict.fromkeys(PREFERENCE_MEASURES, ratio),
}
"""Measures that are compared row by row, each with the function from summed numbers to the value of a set."""
LOWER_IS_BETTER = frozenset({"eval_loss", "tool_over", "tool_under"})
LABELS = {
    "exact_match": "exact match",
    "exact_match_raw": "exact match, scaffold included",
    "tool_name": "right tool",
    "tool_arguments": "right arguments",
    "tool_over": "calls too many",
    "tool_under": "calls too few",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "eval_loss": "eval loss",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
    "preference": "preference",
}
"""Names of the measures in texts for people."""
NEEDS = {
    **dict.fromkeys(("exact_match", "exact_match_raw", *TOOL_MEASURES), "exact_match"),
    "rouge_1": "rouge",
    "rouge_2": "rouge",
    "rouge_l": "rouge",
    "bleu": "bleu",
}
"""Entry of a job's ``metrics`` that each measure needs; the loss is always measured."""


COLUMNS = {"exact_match": "exact", "exact_match_raw": "exact_raw"}
"""Columns of a line whose names differ from their measures' names."""


def numbers(line: Line, side: str, name: str) -> Numbers | None:
    """Returns the numbers that a row adds to a measure of a side; None where the row was not measured."""
    if name == "eval_loss":
        loss, tokens = line.get(f"loss_{side}"), line.get(f"tokens_{side}", line.get("tokens"))
        return None if loss is None or not tokens else (loss * tokens, tokens)
    if name == "bleu":
        return line.get(f"bleu_{side}")
    found = line.get(f"{COLUMNS.get(name, name)}_{side}")
    return None if found is None else (float(found), 1.0)


def measured(lines: Sequence[Line], side: str, name: str) -> float | None:
    """Computes a measure's value for a side over the measured rows; None where no row was measured."""
    found = [row for line in lines if (row := numbers(line, side, name)) is not None]
    return over(MEASURES[name], found) if found else None


def pairs(lines: Sequence[Line], one: str, other: str, name: str) -> tuple[list[Numbers], list[Numbers]]:
    """Returns a measure's numbers for two sides, over the rows where both sides were measured."""
    found = [(numbers(line, one, name), numbers(line, other, name)) for line in lines]
    both = [(a, b) for a, b in found if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]
