# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""Implements training from preferences: TRL's DPOTrainer, KTOTrainer and ORPOTrainer, driven by single optimizer steps.

The losses are TRL's own, computed by the trainers' ``compute_loss`` on our prepared tokens and masks (pairs.py). The
reference of ``dpo`` and ``kto`` is the base with the adapter off, or a frozen copy of another adapter (``REFERENCE``):
one base in memory serves both.

Unusual: TRL gives every model that comes with an adapter a copy of this adapter as reference. A fresh adapter changes
nothing, so for it the copy is deleted again and the adapter is switched off instead, which is the same number for less
memory. TRL writes its fused output head into the base; ``close`` removes the head, since the base may outlive the run.
ORPO is experimental in the pinned TRL, and says so when it is imported; the receipt says it to the user.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.utils import use_adapter

from ....settings.failpoints import hit
from ...adapters.load import add_adapter
from ...batches.pairs import LabelledBatches, PairBatches, pairs_of
from ...batches.preference_scores import Scores, method_loss, score
from ...batches.prepared_set import PreparedSet
from ...recipe import ResolvedRecipe
from ..engine import Report
from .arguments import ROUTER
from .stepwise import StepwiseTrainer
from .trl_engine import EngineInput, TrlEngine

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
    from trl.experimental.orpo.orpo_config import ORPOConfig
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

REFERENCE = "ref"
"""TRL's name of the adapter that is the reference."""


class PreferenceEngine(TrlEngine):
    """Computes the training of one job from preferences; the contract is ``engine.Engine``.

    Args:
        given: The model, the rows and the settings.
        reference: The folder of the adapter that is the reference; None for the base alone.
    """

    def __init__(self, given: EngineInput, reference: Path | None) -> None:
        self._base: Any = given.model.get_base_model()
        self._forward = self._base.__dict__.get("forward")
        self._reference: Scores | None = None
        super().__init__(given, lambda arguments: _trainer(given, arguments, reference))

    def close(self) -> None:
        """End the run, and remove TRL's output head from the base."""
        if not self._closed:
            if self._forward is None:
                self._base.__dict__.pop("forward", None)
            else:
                self._base.forward = self._forward
            del self._base
        super().close()

    def _measure(self, rows: PreparedSet, report: Report) -> float:
        """Return the method's own loss over the held-out rows; the reference is scored once a run."""
        if self._reference is None and self._recipe.method != "orpo":
            with _switched_to_reference(self._model):
                self._reference = self._scores(rows, lambda done, total: report(done, 2 * total))
        return method_loss(self._recipe, rows, self._scores(rows, report), self._reference)

    def _scores(self, rows: PreparedSet, report: Report) -> Scores:
        return score(
            self._model.get_base_model(),
            rows,
            self._recipe,
            pad_id=self._pad_id,
            device=self._device,
            progress=report,
        )


def _switched_to_reference(model: PeftModel) -> Any:
    return use_adapter(model, adapter_name=REFERENCE if REFERENCE in model.peft_config else None)


class _PreferenceTrainer(StepwiseTrainer):
    """Divides TRL's mean loss of a micro batch so that a window's loss is the mean over its pairs or answers."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # the rows are prepared

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        del return_outputs  # only transformers' evaluation asks for them
        hit("step.forward", self.args.per_device_train_batch_size)
        parent: Any = super()
        size = len(inputs["label"]) if "label" in inputs else pairs_of(inputs)
        loss = parent.compute_loss(model, inputs) * size / num_items_in_batch
        self._forget_metrics()
        return loss

    def _forget_metrics(self) -> None:
        """Empty TRL's lists of figures, which its own loop would log and empty."""
        for name in ("_metrics", "_stored_metrics"):
            for figures in getattr(self, name, {}).values():
                figures.clear()


class _DpoTrainer(_PreferenceTrainer, DPOTrainer): ...


class _KtoTrainer(_PreferenceTrainer, KTOTrainer): ...


class _OrpoTrainer(_PreferenceTrainer, ORPOTrainer):
    """TRL's ORPO trainer, whose dataset has no preparation to leave out: it maps three functions over the rows."""

    @staticmethod  # so that datasets, which hashes the function, does not hash the trainer and its rows
    def tokenize_row(feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        del model
        return feature


def _trainer(given: EngineInput, arguments: dict[str, Any], reference: Path | None) -> StepwiseTrainer:
    """Make the trainer of the recipe's method."""
    make: dict[str, Callable[[EngineInput, dict[str, Any]], StepwiseTrainer]] = {
        "dpo": _dpo,
        "kto": _kto,
        "orpo": _orpo,
    }
    trainer = make[given.recipe.method](given, arguments)
    _set_reference(given.model, reference)
    return trainer


def _dpo(given: EngineInput, arguments: dict[str, Any]) -> StepwiseTrainer:
    recipe = given.recipe
    args = DPOConfig(
        **arguments,
        **ROUTER,
        beta=recipe.beta,
        loss_type=list(recipe.losses),
        loss_weights=list(recipe.losses.values()),
        label_smoothing=recipe.label_smoothing,
    )
    batches = _pairs(given, recipe)
    return _DpoTrainer(batches, given.model, args, given.tokenizer, fresh_optimizer=given.fresh_optimizer)


def _orpo(given: EngineInput, arguments: dict[str, Any]) -> StepwiseTrainer:
    recipe = given.recipe
    args = ORPOConfig(**{**arguments, "max_length": recipe.max_length}, beta=recipe.beta)
    return _OrpoTrainer(
        _pairs(given, recipe), given.model, args, given.tokenizer, fresh_optimizer=given.fresh_optimizer
    )


def _kto(given: EngineInput, arguments: dict[str, Any]) -> StepwiseTrainer:
    recipe = given.recipe
    args = KTOConfig(
        **arguments,
        **ROUTER,
        beta=recipe.beta,
        loss_type=next(iter(recipe.losses)),
        desirable_weight=recipe.desirable_weight,
        undesirable_weight=recipe.undesirable_weight,
    )
    batches = LabelledBatches(
        given.rows,
        seed=given.seed,
        micro_batch=recipe.micro_batch,
        accumulation=recipe.accumulation,
        pad_id=int(given.tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
        max_length=recipe.max_length,
    )
    return _KtoTrainer(batches, given.model, args, given.tokenizer, fresh_optimizer=given.fresh_optimizer)


def _pairs(given: EngineInput, recipe: ResolvedRecipe) -> PairBatches:
    return PairBatches(
        given.rows,
        seed=given.seed,
        micro_batch=recipe.micro_batch,
        accumulation=recipe.accumulation,
        pad_id=int(given.tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
        form="orpo" if recipe.method == "orpo" else "dpo",
    )


def _set_reference(model: PeftModel, folder: Path | None) -> None:
    """Give the model the reference adapter, or none: TRL's copy of the trained adapter goes in either case."""
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)
    if folder is not None:
        add_adapter(model, folder, REFERENCE)
    model.set_adapter("default")
