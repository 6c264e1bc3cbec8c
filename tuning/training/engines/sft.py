# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""Implements supervised fine-tuning, the reference engine: TRL's SFTTrainer, driven by single optimizer steps.

The loss is ours (loss.py) instead of TRL's. TRL 1.16 scores every step through a chunked head that is recomputed in the
backward pass, with an entropy and a top-1 accuracy per token, and reads three numbers back from the device each forward
pass. The loss is the same number; benchmarks/references.py measures the cost of both.
"""

from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from ....errors import SettingsError
from ....settings.failpoints import hit
from ...batches.loss import summed_loss
from ...batches.prepared_set import PreparedSet
from ...batches.row_losses import row_losses
from ...batches.sampler import Batches, isolated
from ..engine import Report
from .arguments import ROUTER
from .stepwise import StepwiseTrainer
from .trl_engine import EngineInput, TrlEngine


class SftEngine(TrlEngine):
    """Computes the supervised fine-tuning of one job; the contract is ``engine.Engine``.

    Args:
        given: The model, the rows and the settings.
    """

    def __init__(self, given: EngineInput) -> None:
        recipe = given.recipe
        batches = Batches(
            given.rows,
            seed=given.seed,
            micro_batch=recipe.micro_batch,
            accumulation=recipe.accumulation,
            pad_id=int(given.tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
            pack_tokens=recipe.max_length if recipe.packing else None,
        )
        if recipe.packing:
            _refuse_leaks(given.model.get_base_model(), given.device)

        def make_trainer(arguments: dict[str, Any]) -> StepwiseTrainer:
            args = SFTConfig(**arguments, **ROUTER, dataset_kwargs={"skip_prepare_dataset": True})
            return _Trainer(batches, given.model, args, given.tokenizer, fresh_optimizer=given.fresh_optimizer)

        super().__init__(given, make_trainer)

    def _measure(self, rows: PreparedSet, report: Report) -> float:
        found = row_losses(
            self._model.get_base_model(),
            rows,
            batch_rows=self._recipe.micro_batch,
            pad_id=self._pad_id,
            device=self._device,
            progress=report,
        )
        self.eval_accuracy = found.accuracy
        return found.mean


class _Trainer(StepwiseTrainer, SFTTrainer):
    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        del return_outputs  # only transformers' evaluation asks for them
        hit("step.forward", self.args.per_device_train_batch_size)
        return summed_loss(model, inputs, self.right) / num_items_in_batch


def _refuse_leaks(model: Any, device: str) -> None:
    if not isolated(model, int(model.config.vocab_size), device):
        attention = getattr(model.config, "_attn_implementation", "?")
        raise SettingsError(
            f"packing: this base ({model.config.model_type}, attention {attention}) lets packed rows see each other on "
            f"{device}.",
            hint="Set packing to false.",
        )
