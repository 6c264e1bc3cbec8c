# pyright: basic
# (torch ships incomplete types)
"""Scores held-out preferences: the log-probability of each answer under a model, and what the method's loss needs more.

The trainer's own evaluation and the evaluate stage use the same passes, so the check of an adapter compares the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..recipe import ResolvedRecipe
from .pairs import mismatched, partners
from .preference_losses import Ratios, dpo_loss, kto_loss, orpo_loss
from .prepared_set import PreparedSet
from .row_losses import RowLosses, row_losses

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Holds the losses of held-out preferences under one model.

    Attributes:
        answers: Of each answer, in the set's order.
        others: For KTO: of each prompt with the answer to the prompt before it.
        whole: For ORPO: of each chosen answer together with its prompt.
    """

    answers: RowLosses
    others: RowLosses | None = None
    whole: RowLosses | None = None

    @property
    def logps(self) -> Numbers:
        """Return the log-probability of each answer, nats."""
        return -np.array(self.answers.sums)

    @property
    def tokens(self) -> Numbers:
        """Return the scored tokens of each answer."""
        return np.array(self.answers.tokens, dtype=np.float64)


def score(
    model: Any,
    rows: PreparedSet,
    recipe: ResolvedRecipe,
    *,
    pad_id: int,
    device: str,
    progress: Callable[[int, int], None],
    answers: RowLosses | None = None,
) -> Scores:
    """Score a set of held-out preferences under the model as it is.

    Args:
        model: A causal language model of transformers, bare or wrapped by PEFT.
        rows: The prepared rows, with labels.
        recipe: The recipe; its method says what is scored beside the answers.
        pad_id: The tokenizer's pad token.
        device: ``cpu`` or ``cuda``.
        progress: Called after each batch of answers.
        answers: The losses of the answers, where they are known.
    """
    passes: dict[str, Any] = {"batch_rows": recipe.micro_batch, "pad_id": pad_id, "device": device}
    scored = answers or row_losses(model, rows, **passes, progress=progress)
    if recipe.method == "kto" and "kto" in recipe.losses:
        near = partners(range(len(rows)), len(rows))
        others = mismatched(rows, list(near.items()), recipe.max_length)
        return Scores(scored, others=row_losses(model, others, **passes))
    if recipe.method == "orpo":
        chosen = [(rows[i][0], np.ones(len(rows[i][0]), dtype=np.uint8)) for i in range(0, len(rows), 2)]
        return Scores(scored, whole=row_losses(model, chosen, **passes))
    return Scores(scored)


def method_loss(recipe: ResolvedRecipe, rows: PreparedSet, model: Scores, reference: Scores | None) -> float:
    """Return the method's own loss over a set.

    Args:
        recipe: The recipe.
        rows: The prepared rows, with labels.
        model: The scores of the model.
        reference: The scores of the reference; None for ORPO, which has none.
    """
    if recipe.method == "orpo" or reference is None:
        assert model.whole is not None  # noqa: S101  (scored for orpo)
        per_token = model.logps / np.maximum(1, model.tokens)
        return orpo_loss(recipe, per_token[::2], per_token[1::2], model.whole.mean)
    ratios = model.logps - reference.logps
    if recipe.method == "kto":
        others = None
        if model.others is not None and reference.others is not None:
            others = np.array(reference.others.sums) - np.array(model.others.sums)
        return kto_loss(recipe, ratios, labels_of(rows), others)
    tokens = model.tokens
    pairs = Ratios(
        chosen=ratios[::2],
        rejected=ratios[1::2],
        chosen_tokens=tokens[::2],
        rejected_tokens=tokens[1::2],
        chosen_nll=-model.logps[::2],
    )
    return dpo_loss(recipe, pairs)


def labels_of(rows: PreparedSet) -> NDArray[np.bool_]:
    """Return for each answer True if it is wanted."""
    assert rows.labels is not None  # noqa: S101  (prepared preferences have labels)
    return np.asarray(rows.labels) != 0
