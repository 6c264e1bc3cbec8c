# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""Implements the parts of an engine that every trainer of TRL shares; the contract is ``engine.Engine``.

A subclass makes the trainer and the measure of an evaluation. Reasons for parts of our own:

* The batches (sampler.py, pairs.py): TRL would shuffle with the process's random state, and packs with flash attention
  only.
* Checkpoints, logging and evaluation (control.py): transformers' own are switched off. Its checkpoint is not atomic,
  its log shows a NaN loss as 0.0, and its SIGTERM mode saves in the middle of a step.
* No telemetry: TRL reports each trainer's start to the hub unless a setting forbids it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ... import device as devices
from ...adapters import lora
from ...batches.loss import evaluating
from ...batches.prepared_set import HeldOutRow, PreparedSet
from ...recipe import ResolvedRecipe
from ..engine import EngineFacts, Report, Sample, Step, ignore
from .arguments import point_trackers, training_arguments
from .process_state import ProcessState
from .samples import SAMPLES, greedy_samples
from .stepwise import StepwiseTrainer

BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class EngineInput:
    """Everything that an engine is made from.

    Attributes:
        model: The frozen base with the adapter in its first state (lora.attach).
        tokenizer: The tokenizer of the prepared data.
        recipe: The resolved recipe.
        rows: The training rows.
        eval_set: The first held-out set, or None.
        prompts: Rows of that set to answer at each evaluation.
        planned_steps: Optimizer steps of the whole run.
        seed: The job's seed.
        device: ``cpu`` or ``cuda``.
        out_dir: The attempt's folder.
        run_name: The run's name in trackers.
        fresh_optimizer: Ignore the optimizer's state of a checkpoint, since it belongs to another optimizer.
        unquantized_layers: Layers of the base that stayed unquantized.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    recipe: ResolvedRecipe
    rows: PreparedSet
    eval_set: PreparedSet | None
    prompts: list[HeldOutRow]
    planned_steps: int
    seed: int
    device: str
    out_dir: Path
    run_name: str
    fresh_optimizer: bool = False
    unquantized_layers: tuple[str, ...] = ()


class TrlEngine:
    """Drives a trainer of TRL by single optimizer steps.

    Args:
        given: The model, the rows and the settings.
        make_trainer: Makes the trainer from the arguments that all trainers share; called with the engine's own random
            numbers and accelerate state installed.
    """

    def __init__(self, given: EngineInput, make_trainer: Callable[[dict[str, Any]], StepwiseTrainer]) -> None:
        self._model, self._tokenizer, self._recipe = given.model, given.tokenizer, given.recipe
        self._device, self._eval_set, self._prompts = given.device, given.eval_set, given.prompts[:SAMPLES]
        self._pad_id = int(given.tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
        self._best: dict[str, torch.Tensor] | None = None
        self.eval_accuracy: float | None = None
        point_trackers(given.recipe, given.out_dir, given.run_name)
        self._state = ProcessState(given.device)
        trainable, total = given.model.get_nb_trainable_parameters()
        with self._state.installed():
            arguments = training_arguments(
                given.recipe,
                planned_steps=given.planned_steps,
                seed=given.seed,
                device=given.device,
                out_dir=given.out_dir,
                name=given.run_name,
            )
            self._trainer = make_trainer(arguments)
        self._closed = False
        config: Any = given.model.get_base_model().config
        held_out_tokens = 0 if given.eval_set is None else int(given.eval_set.lengths.sum())
        vocabulary = config.get_text_config().vocab_size
        adapter: Any = given.model.peft_config["default"]
        experts = bool(adapter.target_parameters)
        self.facts = EngineFacts(trainable, total, vocabulary, given.unquantized_layers, held_out_tokens, experts)

    def start(self) -> None:
        """Make the optimizer and the schedule for the first step."""
        with self._state.installed():
            self._trainer.prepare(None)

    def resume(self, checkpoint: Path) -> None:
        """Read adapter, best adapter, optimizer, schedule, scaler, counters and random states of a checkpoint."""
        if (checkpoint / BEST).is_file():
            self._best = lora.read_state(checkpoint / BEST)
        with self._state.installed():
            self._trainer.prepare(checkpoint)

    def step(self, report: Report = ignore) -> Step:
        """Compute and clip the gradients of the next window."""
        with self._state.installed():
            return self._trainer.compute_step(report)

    def update(self) -> None:
        """Take the step of the optimizer and the schedule."""
        with self._state.installed():
            self._trainer.take_step()

    def evaluate(self, report: Report = ignore) -> float | None:
        """Return the loss over the first held-out set, computed without autocast like plain PEFT's."""
        if self._eval_set is None:
            return None
        with self._state.installed():
            loss = self._measure(self._eval_set, report)
            self._trainer.track({"eval_loss": loss})
        return loss

    def samples(self, report: Report = ignore) -> list[Sample]:
        """Answer the first held-out prompts, greedily and in one batch."""
        if not self._prompts:
            return []
        with self._state.installed(), torch.no_grad(), evaluating(self._model):
            return greedy_samples(
                self._model, self._tokenizer, self._prompts, pad_id=self._pad_id, device=self._device, report=report
            )

    def keep_best(self) -> None:
        """Copy the adapter to host memory."""
        self._best = lora.state(self._model)

    def restore_best(self) -> None:
        """Load the adapter's copy of ``keep_best``."""
        if self._best is not None:
            lora.restore(self._model, self._best)

    def save(self, folder: Path) -> None:
        """Write adapter, optimizer, schedule, scaler, random states and counters, as ``Trainer`` reads them."""
        lora.write_adapter(self._model, folder)
        if self._best is not None:
            lora.write_state(folder / BEST, self._best)
        with self._state.installed():
            self._trainer.save_state_files(folder)

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter as PEFT's own folder."""
        lora.write_adapter(self._model, folder)

    def memory(self) -> tuple[int | None, int | None]:
        """Return the GPU's memory in use and utilisation; None on a CPU."""
        return devices.in_use(self._device)

    def close(self) -> None:
        """End the trackers, and release the model, the optimizer and the trainer."""
        if self._closed:
            return
        self._closed = True
        trainer = self._trainer
        del self._trainer, self._model
        self._best = None
        with self._state.installed():
            trainer.finish()
        if "wandb" in self._recipe.report_to:
            import wandb  # noqa: PLC0415  (an extra of its own)

            wandb.finish()

    def _measure(self, rows: PreparedSet, report: Report) -> float:
        """Return the loss over a held-out set."""
        raise NotImplementedError
