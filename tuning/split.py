"""Which rows are held out: a function of the rows' keys, the share and the seed alone."""

import numpy as np
from numpy.typing import NDArray

from .prepared import permutation


def split(keys: NDArray[np.int64], eval_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out: a share that the seed chooses.

    Equal rows go to the same side, so that the split itself never puts a training row among the held-out ones. With
    fewer than two different rows nothing is held out.

    Args:
        keys: One a row, equal for equal rows; their values don't matter.
        eval_fraction: The share.
        seed: The job's.
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
