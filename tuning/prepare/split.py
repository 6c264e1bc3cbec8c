"""Chooses the held-out rows: a function of the rows' keys, the share and the seed alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..batches.prepared_set import TRAIN, permutation
from ..protocol import PrepareRequest
from ..rows.data_file import DataFile
from ..rows.row import Row
from . import preferences
from .receipt import Survey
from .row_store import choose_rows

SPLIT = "eval"
"""Name of the set that is split off the training rows."""


def split(keys: NDArray[np.int64], eval_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose the held-out rows: a share, selected by the seed.

    Equal rows go to the same side, so that the split itself never puts a training row among the held-out ones. With
    fewer than two different rows nothing is held out.

    Args:
        keys: One a row, equal for equal rows; their values don't matter.
        eval_fraction: The share of the held-out rows.
        seed: The seed of the job.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    by_first_row = np.argsort(first, kind="stable")  # groups in the order of their first rows
    sizes: list[int] = np.bincount(group, minlength=len(first))[by_first_row].tolist()
    order: list[int] = permutation(len(sizes), seed)[:-1].tolist()
    wanted = max(1, round(eval_fraction * len(keys)))
    chosen: list[int] = []
    for number in order:
        if sizes[number] <= wanted:
            chosen.append(number)
            wanted -= sizes[number]
            if not wanted:
                break
    if not chosen and order:
        chosen.append(min(order, key=sizes.__getitem__))
    held = np.zeros(len(sizes), dtype=np.bool_)
    held[by_first_row[chosen]] = True
    return held[group]


def split_sets(request: PrepareRequest, files: dict[str, DataFile], survey: Survey) -> dict[str, Sequence[Row]]:
    """Return the rows by set, without repeated training rows as far as requested; the rows stay on disk."""
    kept = survey.kept
    data = files[TRAIN]
    train = choose_rows(preferences.answers(data), preferences.of_each_answer(kept, data))
    if len(files) > 1 or not request.eval_fraction:
        return {name: preferences.answers(each) for name, each in files.items()} | {TRAIN: train}
    held = split(np.array(survey.notes[TRAIN].normal, dtype=np.int64)[kept], request.eval_fraction, request.seed)
    if not held.any():
        return {TRAIN: train}
    held = preferences.of_each_answer(held, data)
    return {TRAIN: choose_rows(train, ~held), SPLIT: choose_rows(train, held)}
