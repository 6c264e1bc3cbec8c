# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""Divides a trainer of TRL into single optimizer steps.

The trainer's own parts do the work: its set-up, its training step, its optimizer, schedule, gradient scaler and state
files. The loop around them is ours, because ``Trainer.train`` cannot be left and entered again between two steps. Our
loop is that of transformers 5.23 for one device, without unused callbacks.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset
from peft import PeftModel
from transformers.trainer_callback import PrinterCallback

from ...adapters import lora
from ...torch_files import load_state
from ..engine import Report, Step

Batch = dict[str, torch.Tensor]


class Windows(Protocol):
    """Cuts a run into the micro batches of each optimizer step: a pure function of the rows, the seed and the step."""

    sequences: Any
    """What a micro batch is cut from; its length counts an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of one epoch."""
        ...

    def window(self, step: int) -> list[list[int]]:
        """Return the micro batches of an optimizer step, counted from 0 over all epochs."""
        ...

    def epochs_after(self, step: int) -> float:
        """Return how many epochs are done after that many steps."""
        ...

    def collate(self, batch: Sequence[int]) -> Batch:
        """Return the tensors of one micro batch, and ``tokens``, its number of tokens without padding."""
        ...

    def normaliser(self, batches: Sequence[Batch]) -> int:
        """Return the divisor of a window's loss, which the trainer's ``compute_loss`` receives."""
        ...


class StepwiseTrainer:
    """Adds ``prepare``, ``compute_step`` and ``take_step`` to a trainer of TRL; list this class before the trainer's.

    ``compute_loss`` of the trainer receives the window's divisor as ``num_items_in_batch``, and may append the number
    of right tokens of its micro batch to ``right``. The adapter stays as it is:
    TRL would cast it to bf16 on a quantized base.

    Args:
        batches: The run's micro batches.
        model: The frozen base with its adapter.
        args: The trainer's configuration.
        tokenizer: The tokenizer of the prepared data.
        fresh_optimizer: Ignore the optimizer's state of a checkpoint, since it belongs to another optimizer.
    """

    loss_is_scaled_for_ga = True  # the loss is divided by the normaliser of the whole window

    args: Any
    model: PeftModel
    state: Any
    accelerator: Any
    callback_handler: Any
    optimizer: Any
    lr_scheduler: Any
    train: Callable[..., Any]
    training_step: Callable[..., torch.Tensor]

    def __init__(self, batches: Windows, model: PeftModel, args: Any, tokenizer: Any, *, fresh_optimizer: bool) -> None:
        self.batches, self._fresh_optimizer = batches, fresh_optimizer
        adapter = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        set_up: Any = super().__init__  # of TRL's trainer
        set_up(
            model=model,
            args=args,
            # TRL insists on a Dataset; the rows are read by our own sampler
            train_dataset=Dataset.from_dict({"sequence": list(range(len(batches.sequences)))}),
            data_collator=batches.collate,
            processing_class=tokenizer,
        )
        for name, weight in self.model.named_parameters():
            if name in adapter:  # TRL cast the adapter to bf16
                weight.data = adapter[name]
        self.remove_callback(PrinterCallback)  # pyright: ignore[reportAttributeAccessIssue]
        self._prepared = False

    def prepare(self, resume_from: Path | None) -> None:
        """Perform the set-up of ``Trainer.train`` before its first step."""
        self.train(resume_from_checkpoint=str(resume_from) if resume_from is not None else None)

    def _inner_training_loop(self, *_: Any, resume_from_checkpoint: str | None = None, **__: Any) -> None:
        """Set up optimizer, schedule and counters; ``train`` calls this where transformers would take all the steps."""
        trainer: Any = self
        steps, epoch_steps = self.args.max_steps, self.batches.steps_per_epoch
        epochs = math.ceil(steps / epoch_steps)
        trainer._init_training_state(steps, epoch_steps, epochs, resume_from_checkpoint, None)  # noqa: SLF001  (theirs)
        self._wrapped, _ = trainer._prepare_for_training(steps, None, resume_from_checkpoint)  # noqa: SLF001
        self._wrapped.zero_grad()
        self._began, self._initial_global_step, self._loss_sum = time.time(), self.state.global_step, 0.0
        self._initial_num_input_tokens_seen = self.state.num_input_tokens_seen
        self.control = self.callback_handler.on_train_begin(self.args, self.state, trainer.control)
        trainer._load_rng_state(resume_from_checkpoint)  # noqa: SLF001  (last: the calls before may draw random numbers)
        self._prepared = True

    def compute_step(self, report: Report) -> Step:
        """Run forward and backward for each micro batch of the next window, then clip the gradients."""
        trainer: Any = self
        done = self.state.global_step
        batches = [self.batches.collate(each) for each in self.batches.window(done)]
        tokens = sum(int(batch.pop("tokens")) for batch in batches)
        items = max(1, self.batches.normaliser(batches))
        normaliser = torch.tensor(items, device=self.args.device)
        self.current_gradient_accumulation_steps = len(batches)
        losses: list[torch.Tensor] = []
        self.right: list[torch.Tensor] = []
        for number, batch in enumerate(batches, 1):
            # as transformers does it
            self.accelerator.gradient_state._set_sync_gradients(number == len(batches))  # noqa: SLF001
            losses.append(self.training_step(self._wrapped, batch, normaliser))
            report(number, len(batches))
        # the one read from the device per optimizer step
        norm = torch.as_tensor(trainer._clip_grad_norm(self._wrapped), dtype=torch.float32, device=self.args.device)  # noqa: SLF001
        right = [torch.stack(self.right).sum().to(torch.float32)] if self.right else []
        loss, grad_norm, *counted = torch.stack([sum(losses[1:], losses[0]), norm, *right]).tolist()
        accuracy = counted[0] / items if counted else None
        self._loss_sum += loss
        scaler = getattr(self.accelerator, "scaler", None)
        # with fp16 an overflow is the scaler's business: it skips the step and halves its scale, down to 1
        overflow = not math.isfinite(grad_norm) and scaler is not None and scaler.get_scale() > 1
        epoch, rate = self.batches.epochs_after(done + 1), float(trainer._get_learning_rate())  # noqa: SLF001
        self._step = Step(done + 1, epoch, loss, rate, grad_norm, tokens, overflow, accuracy)
        return self._step

    def take_step(self) -> None:
        """Update the adapter with the gradients of ``compute_step``."""
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
        self._wrapped.zero_grad()
        step = self._step
        self.state.global_step, self.state.epoch = step.number, step.epoch
        self.track({"loss": step.loss, "grad_norm": step.grad_norm, "learning_rate": step.learning_rate})

    def finish(self) -> None:
        """Report the run's totals and its end to the trackers; a run that never began reports nothing."""
        if not self._prepared:
            return
        trainer: Any = self
        self._total_loss_scalar, self._tr_loss = self._loss_sum, torch.tensor(0.0)
        samples = self.args.max_steps * self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        trainer._finalize_training(None, samples, self._began)  # noqa: SLF001  (theirs)

    def track(self, logs: dict[str, float]) -> None:
        """Report figures to the trackers (report_to) without transformers' ever-growing log history."""
        if self.args.report_to:
            self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def save_state_files(self, folder: Path) -> None:
        """Write the files that ``Trainer.train(resume_from_checkpoint)`` reads besides the adapter."""
        trainer: Any = self
        trainer._save_optimizer_and_scheduler(str(folder))  # noqa: SLF001  (theirs)
        trainer._save_scaler(str(folder))  # noqa: SLF001
        trainer._save_rng_state(str(folder))  # noqa: SLF001
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._fresh_optimizer or checkpoint is None:
            parent: Any = super()
            parent._load_optimizer_and_scheduler(checkpoint)  # noqa: SLF001  (theirs)
            return
        state = load_state(Path(checkpoint) / "scheduler.pt", "cpu")
        self.lr_scheduler.load_state_dict(state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        lora.restore(self.model, lora.read_state(Path(resume_from_checkpoint) / lora.WEIGHTS))

    def _send_telemetry(self) -> None:
        pass
