"""Defines the losses of preference training over a whole held-out set, from the log-probabilities of its answers.

The formulas are those of TRL's trainers, which compute the gradients; tests compare each loss with TRL's. During
training TRL takes the mean over a micro batch; here every mean is over the set, so that a value does not depend on the
division into batches. No torch: the inputs are one number an answer.

Sources: DPO arXiv 2305.18290 (sigmoid), SLiC 2305.10425 (hinge), IPO 2310.12036, EXO 2402.00856, NCA 2402.05369, robust
DPO 2403.00409, BCO 2404.04656, SPPO 2405.00675, APO 2408.06266, DiscoPOP 2406.08414, KTO 2402.01306, ORPO 2403.07691.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..recipe import Recipe

Numbers = NDArray[np.float64]
DISCOPOP_TAU = 0.05
"""TRL's default of ``discopop_tau``."""


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Holds the log-probabilities of pairs, model minus reference, in nats.

    Attributes:
        chosen: Of each chosen answer.
        rejected: Of each rejected answer.
        chosen_tokens: Scored tokens of each chosen answer.
        rejected_tokens: Scored tokens of each rejected answer.
        chosen_nll: Negative log-likelihood of each chosen answer under the model alone.
    """

    chosen: Numbers
    rejected: Numbers
    chosen_tokens: Numbers
    rejected_tokens: Numbers
    chosen_nll: Numbers


def dpo_loss(recipe: Recipe, ratios: Ratios) -> float:
    """Return the weighted sum of the recipe's losses, each a mean over the pairs."""
    return sum(weight * _mean_loss(name, recipe, ratios) for name, weight in recipe.losses.items())


def kto_loss(recipe: Recipe, ratios: Numbers, wanted: NDArray[np.bool_], mismatched: Numbers | None) -> float:
    """Return the mean loss of labelled answers.

    Args:
        recipe: The recipe: beta, loss and weights.
        ratios: Log-probability of each answer, model minus reference.
        wanted: The labels.
        mismatched: The same ratios for answers to other prompts; their mean, at least 0, is KTO's reference point.
    """
    if recipe.losses.get("apo_zero_unpaired"):
        losses = np.where(wanted, 1 - _sigmoid(recipe.beta * ratios), _sigmoid(recipe.beta * ratios))
    else:
        point = max(0.0, float(mismatched.mean())) if mismatched is not None else 0.0
        sign = np.where(wanted, 1.0, -1.0)
        losses = 1 - _sigmoid(recipe.beta * sign * (ratios - point))
    return float((np.where(wanted, recipe.desirable_weight, recipe.undesirable_weight) * losses).mean())


def orpo_loss(recipe: Recipe, chosen: Numbers, rejected: Numbers, whole_nll: float) -> float:
    """Return the likelihood part plus the odds ratio's mean over the pairs.

    Args:
        recipe: The recipe: beta.
        chosen: Mean log-probability a token of each chosen answer.
        rejected: Mean log-probability a token of each rejected answer.
        whole_nll: Nats per token of prompts and chosen answers together, as TRL takes it.
    """
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return whole_nll - recipe.beta * float(_logsigmoid(odds).mean())


def _mean_loss(name: str, recipe: Recipe, ratios: Ratios) -> float:
    if name == "sft":
        return float(ratios.chosen_nll.sum() / max(1.0, ratios.chosen_tokens.sum()))
    return float(_pair_losses(name, recipe.beta, recipe.label_smoothing, ratios).mean())


def _pair_losses(name: str, beta: float, smoothing: float, ratios: Ratios) -> Numbers:  # noqa: C901, PLR0911  (one a loss)
    chosen, rejected = ratios.chosen, ratios.rejected
    logits = beta * (chosen - rejected)
    match name:
        case "hinge":
            return np.maximum(0.0, 1 - logits)
        case "ipo":
            return (_per_token(ratios) - 1 / (2 * beta)) ** 2
        case "sigmoid_norm":
            return -_logsigmoid(beta * _per_token(ratios))
        case "exo_pair":
            right = _sigmoid(logits) * (_logsigmoid(logits) - np.log1p(-smoothing))
            return right + _sigmoid(-logits) * (_logsigmoid(-logits) - np.log(smoothing))
        case "nca_pair":
            pull = -_logsigmoid(beta * chosen) - 0.5 * _logsigmoid(-beta * chosen)
            return pull - 0.5 * _logsigmoid(-beta * rejected)
        case "robust":
            mixed = -(1 - smoothing) * _logsigmoid(logits) + smoothing * _logsigmoid(-logits)
            return mixed / (1 - 2 * smoothing)
        case "bco_pair":
            return -_logsigmoid(beta * chosen) - _logsigmoid(-beta * rejected)
        case "sppo_hard":
            return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
        case "apo_zero":
            return 1 - _sigmoid(beta * chosen) + _sigmoid(beta * rejected)
        case "apo_down":
            return _sigmoid(beta * chosen) + 1 - _sigmoid(logits)
        case "discopop":
            share = _sigmoid(logits / DISCOPOP_TAU)
            return -_logsigmoid(logits) * (1 - share) + np.exp(-logits) * share
        case _:
            return -_logsigmoid(logits)


def _per_token(ratios: Ratios) -> Numbers:
    return ratios.chosen / np.maximum(1, ratios.chosen_tokens) - ratios.rejected / np.maximum(1, ratios.rejected_tokens)


def _logsigmoid(values: Numbers) -> Numbers:
    return -np.logaddexp(0.0, -values)


def _sigmoid(values: Numbers) -> Numbers:
    return np.exp(_logsigmoid(values))


def _log1mexp(values: Numbers) -> Numbers:
    """Return log(1 - exp(x)) for x below 0 without cancellation (Mächler 2012)."""
    small = np.minimum(values, -np.finfo(np.float64).tiny)
    return np.where(small > -np.log(2), np.log(-np.expm1(small)), np.log1p(-np.exp(small)))
