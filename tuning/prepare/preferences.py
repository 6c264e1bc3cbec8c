"""Prepares preference rows: chooses what a method trains on, keeps both answers of a pair together, counts the labels.

A row of preferences is stored as one row for each answer, the chosen one before the rejected one (rows/preference.py).
``dpo`` and ``orpo`` keep the two as a pair through split, cut and batch. ``kto`` takes each answer by itself with its
label, from pairs too, as TRL does.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches.prepared_set import TRAIN, PreparedSet
from ..protocol import PrepareRequest
from ..recipe import PAIRED, Method, Recipe
from ..rows.data_file import DataFile, require_both_labels
from ..rows.row import Row
from .receipt import Warned
from .row_store import choose_rows

EXPERIMENTAL = "TRL 1.16 calls its ORPO trainer experimental; celora pins that version, and each run names it"
ORPO_LOSS = "the likelihood part of orpo's loss is taken over prompt and chosen answer, as in TRL"
DECISIVE = 2
"""Number of sets whose rows must fit the method: the training rows and the first held-out set."""
MOST_UNBALANCED = 4 / 3
"""Largest ratio of the labels' weights that KTO's authors recommend (arXiv 2402.01306, equation 8)."""


def with_method(request: PrepareRequest, files: Mapping[str, DataFile]) -> PrepareRequest:
    """Return a request to check preference rows without a method, with the method that trains on such rows."""
    methods = {data.methods[0] for data in list(files.values())[:DECISIVE] if data.good}
    if request.op != "check" or request.recipe.method != "sft" or len(methods) != 1 or "sft" in methods:
        return request
    recipe = request.recipe.model_copy(update={"method": methods.pop()})
    return request.model_copy(update={"recipe": recipe})


def method_of_set(method: Method, data: DataFile, number: int) -> Method:
    """Return the method whose rows a set must hold: the job's own, or ``sft`` where plain answers may stand.

    The trainer measures its loss on the first held-out set, so this set holds preferences as the training rows do.
    Further sets, such as the rows of a gate's ``must_pass``, may hold plain answers: the adapter answers their prompts.

    Args:
        method: The method of the job.
        data: The file of the set.
        number: The place of the set: 0 for the training rows, 1 for the first held-out set.
    """
    return "sft" if data.good and data.trains and number >= DECISIVE else method


def group(method: Method, data: DataFile) -> int:
    """Return the number of prepared rows of a file that a method keeps together; plain answers stand alone."""
    return 2 if method in PAIRED and not data.trains else 1


def answers(data: DataFile) -> Sequence[Row]:
    """Return the rows of a file that training reads: of preferences, one row for each answer."""
    return data.rows if data.trains else data.pairs


def first_answers(data: DataFile) -> Sequence[Row]:
    """Return one row for each row of a file: of preferences, the row of its first answer."""
    if data.trains or len(data.pairs) == data.good:
        return answers(data)
    return choose_rows(data.pairs, np.arange(len(data.pairs)) % 2 == 0)


def of_each_answer(chosen: NDArray[np.bool_], data: DataFile) -> NDArray[np.bool_]:
    """Repeat a choice of a file's rows for each of their answers."""
    return chosen if data.trains else np.repeat(chosen, len(data.pairs) // max(1, len(chosen)))


def require_labels(method: Method, files: Mapping[str, DataFile]) -> None:
    """Refuse unpaired training rows of one label alone.

    Raises:
        DataError: Every row has the same label.
    """
    if method == "kto":
        require_both_labels(next(iter(files.values())))


def facts(method: Method, sets: Mapping[str, PreparedSet]) -> dict[str, Any]:
    """Return the receipt's part about preferences, by set: answers by label, and their mean trained tokens."""
    found: dict[str, Any] = {}
    for name, rows in sets.items():
        if rows.labels is None:
            continue
        wanted = np.asarray(rows.labels) != 0
        tokens = np.add.reduceat(rows.mask, rows.offsets[:-1], dtype=np.int64)
        found[name] = {
            "wanted": int(wanted.sum()),
            "unwanted": int((~wanted).sum()),
            "wanted_tokens": round(float(tokens[wanted].mean()), 1) if wanted.any() else 0.0,
            "unwanted_tokens": round(float(tokens[~wanted].mean()), 1) if (~wanted).any() else 0.0,
        }
        if method in PAIRED:
            found[name]["pairs"] = len(rows) // 2
    return found


def warnings(request: PrepareRequest, asked: Method, compared: dict[str, Any]) -> list[Warned]:
    """Return warnings about training from preferences.

    Args:
        request: The request with the method in force.
        asked: The method that the caller gave.
        compared: The receipt's part about preferences (``facts``), by set.
    """
    recipe, train, found = request.recipe, compared[TRAIN], list[Warned]()
    if asked != recipe.method:
        also = ", or orpo" if recipe.method == "dpo" else ""
        message = f"these rows are preferences: a job trains on them with the line `method: {recipe.method}`{also}"
        found.append(Warned("method", message))
    if recipe.method == "orpo":
        found.append(Warned("experimental", f"{EXPERIMENTAL}; {ORPO_LOSS}"))
    longer, shorter = sorted((train["wanted_tokens"], train["unwanted_tokens"]), reverse=True)
    if shorter and longer / shorter >= LENGTH_BIAS:
        side = "wanted" if train["wanted_tokens"] > train["unwanted_tokens"] else "unwanted"
        found.append(
            Warned(
                "length_bias",
                f"{side} answers have {longer:.0f} tokens in the mean and the others {shorter:.0f}: the adapter may "
                "learn the length itself",
            )
        )
    held_out = {name: rows for name, rows in compared.items() if name != TRAIN}
    return found + [
        _one_label(name, rows) for name, rows in held_out.items() if 0 in (rows["wanted"], rows["unwanted"])
    ]


def _one_label(name: str, rows: dict[str, Any]) -> Warned:
    """Return the warning about held-out answers of one label; training rows of one label are refused."""
    label = "wanted" if rows["wanted"] else "unwanted"
    return Warned(
        "one_label",
        f"the held-out set {name} has {label} answers alone ({rows[label]}), so its reward margin can't be measured; "
        "hold out more rows, or give an eval_dataset with both labels",
    )


def balance_warnings(recipe: Recipe, train: PreparedSet) -> Iterator[str]:
    """Yield a sentence where the weighted labels of KTO are out of balance; it depends on the weights of the run."""
    counted = facts(recipe.method, {"train": train}).get("train")
    if recipe.method != "kto" or counted is None or not counted["unwanted"] or not counted["wanted"]:
        return
    wanted, unwanted = counted["wanted"] * recipe.desirable_weight, counted["unwanted"] * recipe.undesirable_weight
    if 1 / MOST_UNBALANCED <= wanted / unwanted <= MOST_UNBALANCED:
        return
    low = "undesirable_weight" if wanted > unwanted else "desirable_weight"
    value = getattr(recipe, low) * max(wanted, unwanted) / min(wanted, unwanted)
    yield (
        f"{counted['wanted']} answers are wanted and {counted['unwanted']} are not; {low}: {value:.2g} would give both "
        "sides the same weight"
    )


LENGTH_BIAS = 1.5
"""Ratio of the answers' mean lengths from which a warning names it."""
