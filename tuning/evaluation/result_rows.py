"""Writes and reads the rows of an evaluation, ``rows.<set>.jsonl``.

``evaluate`` makes these lines; gates and comparisons read them, without torch. A *side* is a model that answered the
rows: ``base``, ``tuned``, the champion, or another adapter. A line holds ``row``, ``line``, ``prompt``, ``reference``,
``row_hash`` (of the whole prompt and answer, system text and tools included) and ``tokens`` (the number of tokens that
carry loss). For each side it holds ``SIDE`` (the answer), ``exact_SIDE``, ``exact_raw_SIDE``, ``loss_SIDE`` (nats per
token), ``rouge_1_SIDE``, ``rouge_2_SIDE``, ``rouge_l_SIDE``, ``bleu_SIDE`` (the ten counts of corpus BLEU), and for
rows with tools ``tool_name_SIDE`` and the other tool measures. Where the words alone differ from the whole answer,
``words_SIDE`` and ``reference_words`` hold the words; every measure except ``exact_raw`` compares the words.
``measures`` computes the values of a set.
"""

import json
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from . import metrics
from .measures import Line
from .readings import Reading, tool_scores

KEPT = ("line", "prompt", "reference", "row_hash")
"""Keys of a held-out row that its line copies."""


class Losses(Protocol):
    """The losses of a set's rows (``batches.row_losses.RowLosses``)."""

    @property
    def tokens(self) -> list[int]:
        """Return the number of trained tokens of each row."""
        ...

    def of_row(self, index: int, /) -> float | None:
        """Return the nats per trained token of one row."""
        ...


def lines(
    rows: Sequence[Mapping[str, Any]],
    losses: Mapping[str, Losses],
    answered: Sequence[int],
    answers: Mapping[str, Sequence[Reading]],
    wanted: Sequence[str],
    *,
    references: Sequence[Reading],
) -> list[Line]:
    """Makes the lines of one set.

    Args:
        rows: The held-out rows: prompt, reference, line.
        losses: The losses of each row, by side.
        answered: The indices of the answered rows.
        answers: The answers to those rows, by side.
        wanted: The job's ``metrics``.
        references: The references of the answered rows.
    """
    first = next(iter(losses.values()))
    made: list[Line] = [
        {**{name: row.get(name) for name in KEPT}, "row": i, "tokens": first.tokens[i]} for i, row in enumerate(rows)
    ]
    for i, reference in zip(answered, references, strict=True):
        if reference.words != reference.text:
            made[i]["reference_words"] = reference.words
    for side, found in losses.items():
        for i, line in enumerate(made):
            line |= {side: None, f"exact_{side}": None, f"loss_{side}": found.of_row(i)}
        if side in answers:
            _add_answers([made[i] for i in answered], side, answers[side], wanted, references)
    return made


def _add_answers(
    made: list[Line], side: str, answers: Sequence[Reading], wanted: Sequence[str], references: Sequence[Reading]
) -> None:
    words = [reference.words for reference in references], [answer.words for answer in answers]
    try:
        scores = metrics.row_scores(wanted, *words)
    except Exception:  # noqa: BLE001  (the metric failed over the set too, which is a warning; the answers are kept)
        traceback.print_exc()  # into the job's log
        scores = [dict[str, Any]() for _ in made]
    for line, reference, answer, found in zip(made, references, answers, scores, strict=True):
        line |= {side: answer.text, f"exact_{side}": metrics.exact(reference.words, answer.words)}
        line[f"exact_raw_{side}"] = metrics.exact(reference.text, answer.text)
        if answer.words != answer.text:
            line[f"words_{side}"] = answer.words
        line |= {f"{name}_{side}": value for name, value in (found | tool_scores(reference, answer)).items()}


def read(content: bytes) -> list[Line]:
    """Reads the lines of a file of rows."""
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line]  # (U+2028 ends no line)


def identity(lines: Iterable[Line]) -> list[str]:
    """Returns the hash of each row in order; two sets hold the same rows if their hashes are equal.

    The hash covers the whole prompt, system text and tools included, and the answer. Lines of an older version have no
    hash; prompt and reference replace it.
    """
    return [str(line.get("row_hash") or (line["prompt"], line["reference"])) for line in lines]
