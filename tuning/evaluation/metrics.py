"""Computes text metrics over references and answers, in pure functions without torch.

The two libraries of the field do the counting (rouge-score, sacrebleu); no metric is downloaded. Unusual: ROUGE gets a
tokenizer that equals rouge-score's own on English, but keeps the letters of every other script. rouge-score's tokenizer
drops them (a German umlaut splits a word, a Chinese answer scores 0 against itself).
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..plain_text import normalised

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""A word, or one character of a script that writes no spaces (Chinese, Japanese)."""

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our name of each ROUGE metric, and rouge-score's name."""


def normalise(text: str) -> str:
    """Normalise a text for exact match: NFKC, case folded, one space for each run of white space, none at the ends.

    Punctuation counts, also at the ends: ``42.`` is not ``42``. Where a task has a fixed form of answer, only that
    form is right; ROUGE is the looser measure.

    Example:
        ``" Leak |  Kettle "`` and ``"leak | kettle"`` are the same.
    """
    return normalised(text)


def exact(reference: str, answer: str) -> bool:
    """Return whether an answer equals its reference after normalisation of both."""
    return normalise(reference) == normalise(answer)


def exact_match(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the share of answers that equal their references, 0 to 1."""
    return sum(map(exact, references, answers)) / len(references)


def rouge_rows(references: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
    """Compute ROUGE-1, -2 and -L of each row: F1, 0 to 1 (Lin 2004; rouge-score, without stemming).

    Two texts without any word score 1 when they are the same after normalising, else 0.
    """
    # (an extra, without types; it takes a second to import)
    from rouge_score import rouge_scorer  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

    scorer: Any = rouge_scorer.RougeScorer(list(ROUGE.values()), tokenizer=_Words())
    rows: list[dict[str, float]] = []
    for reference, answer in zip(references, answers, strict=True):
        if not _WORDS.search(reference) and not _WORDS.search(answer):
            rows.append(dict.fromkeys(ROUGE, float(exact(reference, answer))))
            continue
        scores = scorer.score(reference, answer)
        rows.append({ours: float(scores[theirs].fmeasure) for ours, theirs in ROUGE.items()})
    return rows


def rouge(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Compute ROUGE-1, -2 and -L, each as the mean over the rows."""
    rows = rouge_rows(references, answers)
    return {name: sum(row[name] for row in rows) / len(rows) for name in ROUGE}


def bleu(references: Sequence[str], answers: Sequence[str]) -> float:
    """Compute corpus BLEU, 0 to 100 (Papineni 2002).

    The settings are sacrebleu's defaults: 13a tokens, exponential smoothing, one reference.
    """
    import sacrebleu  # noqa: PLC0415  (an extra; it takes a moment to import)

    library: Any = sacrebleu
    return float(library.corpus_bleu(list(answers), [list(references)]).score)


def row_scores(wanted: Sequence[str], references: Sequence[str], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Return each row's share in the requested metrics except exact match: ROUGE, and the counts of BLEU.

    The counts are system length, reference length, and matches and totals of 1- to 4-grams; their sums over rows give
    corpus BLEU (measures.py).
    """
    found: list[dict[str, Any]] = [{} for _ in references]
    if "rouge" in wanted:
        found = [dict[str, Any](row) for row in rouge_rows(references, answers)]
    if "bleu" in wanted:
        import sacrebleu  # noqa: PLC0415  (an extra; it takes a moment to import)

        library: Any = sacrebleu
        for row, reference, answer in zip(found, references, answers, strict=True):
            one = library.corpus_bleu([answer], [[reference]])
            row["bleu"] = [one.sys_len, one.ref_len, *one.counts, *one.totals]
    return found


def perplexity(loss: float) -> float:
    """Return ``exp(loss)`` of a loss in nats per token; infinite where no float is large enough."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def text_metrics(
    wanted: Sequence[str], references: Sequence[str], answers: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Compute the requested metrics, and a sentence for each metric that failed.

    A failing metric must not waste a good training. So the result lacks the metric, and a warning names it.

    Args:
        wanted: Names out of ``exact_match``, ``rouge`` and ``bleu``.
        references: The expected answers.
        answers: The model's answers, in the same order.
    """
    found: dict[str, float] = {}
    warnings: list[str] = []
    for name in wanted if references else ():
        measure = METRICS.get(name)
        if measure is None:
            warnings.append(f"metric {name}: there is none of that name; known are {', '.join(METRICS)}")
            continue
        try:
            found |= measure(references, answers)
        except Exception as error:  # noqa: BLE001  (any error of a metric's library is a warning, not a failed job)
            warnings.append(f"metric {name} failed: {type(error).__name__}: {error}")
    return found, warnings


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {
    "exact_match": lambda references, answers: {"exact_match": exact_match(references, answers)},
    "rouge": rouge,
    "bleu": lambda references, answers: {"bleu": bleu(references, answers)},
}
"""Function of each name in a job's ``metrics``."""


class _Words:
    """Splits texts into words for ROUGE."""

    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(text.lower())
