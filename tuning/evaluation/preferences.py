# pyright: basic
# (numpy arrays of torch's numbers)
"""Measures an adapter on held-out preferences: how often it prefers the wanted answer, by how much, at which length.

The implicit reward of an answer is beta times the log-probability that the model adds to the reference's (arXiv
2305.18290, equation 5). A pair counts as right if the wanted answer has the higher reward; a labelled answer alone, if
its reward has the sign of its label. So the reference itself, which adds nothing, is right for no row. The figures of
ORPO, which trains without a reference, are taken against the base.

The ordinary loss stays a measure of answers that are wanted: an unwanted answer is no reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches.row_losses import RowLosses
from ..recipe import PAIRED, Method
from .measures import Line

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Preferences:
    """Holds the answers of a held-out set of preferences.

    Attributes:
        wanted: The label of each answer; the answers of pairs alternate.
        paired: True if the answers are pairs.
        beta: The recipe's beta.
    """

    wanted: NDArray[np.bool_]
    paired: bool
    beta: float

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], method: Method, beta: float) -> "Preferences | None":
        """Read the labels of held-out rows; None where the rows are no preferences."""
        if method == "sft" or not rows or "wanted" not in rows[0]:
            return None
        return cls(np.array([bool(row["wanted"]) for row in rows]), method in PAIRED, beta)

    def rewards(self, model: RowLosses, reference: RowLosses) -> Numbers:
        """Return the implicit reward of each answer."""
        return self.beta * (_logps(model) - _logps(reference))

    def figures(self, model: RowLosses, reference: RowLosses) -> dict[str, float]:
        """Return the measures of one side over the set.

        ``reward_accuracy`` and ``reward_margin`` are of the rewards, ``logp_accuracy`` of the log-probabilities alone
        (of pairs). ``logps_wanted`` and ``logps_unwanted`` are means in nats, ``tokens_wanted`` and
        ``tokens_unwanted`` the mean lengths of the answers.
        """
        rewards, logps, tokens = self.rewards(model, reference), _logps(model), np.array(model.tokens, dtype=np.float64)
        found = {"reward_accuracy": float(self._right(rewards).mean())}
        if self.paired:
            found["logp_accuracy"] = float((logps[::2] > logps[1::2]).mean())
        if self.wanted.all() or not self.wanted.any():
            return found
        good, bad = self.wanted, ~self.wanted
        return found | {
            "reward_margin": float(rewards[good].mean() - rewards[bad].mean()),
            "logps_wanted": float(logps[good].mean()),
            "logps_unwanted": float(logps[bad].mean()),
            "tokens_wanted": float(tokens[good].mean()),
            "tokens_unwanted": float(tokens[bad].mean()),
        }

    def complete(self, lines: Sequence[Line], losses: Mapping[str, RowLosses], reference: RowLosses) -> list[Line]:
        """Add each side's rewards to the lines of a set; keep one line a pair, and no loss of an unwanted answer."""
        for side, model in losses.items():
            rewards = self.rewards(model, reference)
            right = self._right(rewards)
            for number, line in enumerate(lines):
                line[f"reward_{side}"] = float(rewards[number])
                at = number // 2 if self.paired else number
                line[f"reward_accuracy_{side}"] = float(right[at])
                if self.paired:
                    line[f"reward_margin_{side}"] = float(rewards[2 * at] - rewards[2 * at + 1])
                if not self.wanted[number]:
                    line[f"loss_{side}"] = None
        for line, wanted in zip(lines, self.wanted.tolist(), strict=True):
            line["wanted"] = wanted
        return [line for line in lines if line["wanted"] or not self.paired]

    def _right(self, rewards: Numbers) -> NDArray[np.bool_]:
        if self.paired:
            return rewards[::2] > rewards[1::2]
        return np.where(self.wanted, rewards > 0, rewards < 0)


def wanted_only(losses: RowLosses, preferences: Preferences | None) -> RowLosses:
    """Return the losses of the answers that are wanted; all of them where the rows are no preferences."""
    if preferences is None:
        return losses
    kept = np.flatnonzero(preferences.wanted).tolist()
    return RowLosses([losses.sums[i] for i in kept], [losses.tokens[i] for i in kept])


def _logps(losses: RowLosses) -> Numbers:
    return -np.array(losses.sums)
