# pyright: basic
# (torch, transformers and TRL ship incomplete types)
"""The first engine: TRL's SFTTrainer, driven through one callback. Everything version-specific about TRL stands here.

What is ours and why:

* The loss (loss.py) instead of TRL's. TRL 1.16 scores every step through a chunked head that is recomputed in the
  backward pass, with an entropy and a top-1 accuracy per token, and reads three numbers back from the device each
  forward pass. The loss is the same number; benchmarks/references.py measures what it costs.
* The batches (batches.py): TRL would shuffle with the process's random state, and packs with flash attention only.
* Checkpoints, logging and evaluation (course.py): transformers' own are switched off. Its checkpoint is not atomic, its
  log shows a NaN loss as 0.0, and its SIGTERM mode saves in the middle of a step.
* No telemetry: TRL reports each trainer's start to the hub unless told not to.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from ..settings.errors import SettingsError, UnavailableError
from ..settings.failpoints import hit
from . import device as devices
from . import lora
from .batches import Batches, isolated
from .course import Course, Step
from .loss import IGNORED, eval_loss, evaluating, summed_loss
from .prepared import PreparedSet
from .recipe import ResolvedRecipe
from .torch_files import load_state

SAMPLES = 2
SAMPLE_TOKENS = 48
BEST = "best.safetensors"
OPTIMIZERS = {"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class SftEngine:
    """One job's supervised fine-tuning; the contract is ``engine.Engine``.

    Args:
        model: The frozen base with a fresh adapter (lora.attach).
        tokenizer: The tokenizer of the prepared data.
        recipe: The resolved recipe.
        rows: The training rows.
        eval_set: The first held-out set, or None.
        prompts: Rows of that set to answer at each evaluation: prompt_tokens, prompt, reference.
        planned_steps: Optimizer steps of the whole run.
        seed: The job's seed.
        device: ``cpu`` or ``cuda``.
        out_dir: The attempt's folder.
        run_name: The run's name in trackers.
        fresh_optimizer: Leave the optimizer's state of a checkpoint aside: it is another optimizer's.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: ResolvedRecipe,
        rows: PreparedSet,
        eval_set: PreparedSet | None,
        prompts: list[dict[str, Any]],
        planned_steps: int,
        seed: int,
        device: str,
        out_dir: Path,
        run_name: str,
        fresh_optimizer: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.recipe, self.device = model, tokenizer, recipe, device
        self._eval_set, self._prompts = eval_set, prompts[:SAMPLES]
        self._best: dict[str, torch.Tensor] | None = None
        self.batches = Batches(
            rows,
            seed=seed,
            micro_batch=recipe.micro_batch,
            accumulation=recipe.accumulation,
            pad_id=int(tokenizer.pad_token_id),  # pyright: ignore[reportArgumentType]
            pack_tokens=recipe.max_length if recipe.packing else None,
        )
        if recipe.packing:
            self._refuse_leaks()
        _point_trackers(recipe, out_dir, run_name)
        args = _arguments(recipe, planned_steps=planned_steps, seed=seed, device=device, out_dir=out_dir, name=run_name)
        self._trainer = _Trainer(self.batches, self.model, args, tokenizer)
        self._trainer.fresh_optimizer = fresh_optimizer
        self._course: Course | None = None

    def run(self, course: Course, resume_from: Path | None) -> None:
        """Train until the course ends; the course is asked at each step boundary."""
        callback = _Boundary(course, self._trainer, self.batches)
        self._trainer.course = self._course = course
        self._trainer.add_callback(callback)
        if resume_from is not None and (resume_from / BEST).is_file():
            self._best = lora.read_state(resume_from / BEST)
        try:
            self._trainer.train(resume_from_checkpoint=str(resume_from) if resume_from is not None else None)
        except _NothingToDo:
            pass
        finally:
            if "wandb" in self.recipe.report_to:
                import wandb  # noqa: PLC0415  (an extra of its own)

                wandb.finish()

    def evaluate(self) -> float | None:
        """Loss over the first held-out set, without autocast: as plain PEFT computes it."""
        if self._eval_set is None:
            return None
        loss = eval_loss(
            self.model.get_base_model(),
            self._eval_set,
            self.recipe.micro_batch,
            self.batches.pad_id,
            self.device,
            progress=self._evaluated,
        )
        self._trainer.track({"eval_loss": loss})
        return loss

    def samples(self) -> list[dict[str, str]]:
        """Greedy answers to the first held-out prompts."""
        with torch.no_grad(), evaluating(self.model):
            return [
                {"prompt": row["prompt"], "answer": self._answer(row["prompt_tokens"]), "reference": row["reference"]}
                for row in self._prompts
            ]

    @property
    def guess_nats(self) -> float:
        """The loss of guessing each token of the vocabulary with the same chance."""
        model: Any = self.model.get_base_model()
        return math.log(model.config.get_text_config().vocab_size)

    def keep_best(self) -> None:
        """Copy the adapter to host memory."""
        self._best = lora.state(self.model)

    def restore_best(self) -> None:
        """Load the kept copy."""
        if self._best is not None:
            lora.restore(self.model, self._best)

    def save(self, folder: Path) -> None:
        """Adapter, optimizer, schedule, scaler, random states and the trainer's counters, as ``Trainer`` reads them."""
        lora.write_adapter(self.model, folder)
        if self._best is not None:
            lora.write_state(folder / BEST, self._best)
        self._trainer.save_state_files(folder)

    def memory(self) -> tuple[int | None, int | None]:
        """Of the GPU; None on a CPU."""
        return devices.in_use(self.device)

    def _evaluated(self, done: int, total: int) -> None:
        if self._course is not None:
            self._course.evaluated(done, total)

    def _answer(self, prompt_tokens: list[int]) -> str:
        prompt = torch.tensor([prompt_tokens], device=self.device)
        # the base's own sampling settings (temperature, top_p) would only warn: this is greedy
        output = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.batches.pad_id,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList([_EachToken(self._evaluated)]),
        )
        return str(self.tokenizer.decode(output[0, len(prompt_tokens) :], skip_special_tokens=True))

    def _refuse_leaks(self) -> None:
        model: Any = self.model.get_base_model()
        if not isolated(model, int(model.config.vocab_size), self.device):
            attention = getattr(model.config, "_attn_implementation", "?")
            raise SettingsError(
                f"packing: this base ({model.config.model_type}, attention {attention}) lets packed rows see each "
                f"other on {self.device}.",
                hint="Set packing to false.",
            )


class _EachToken(StoppingCriteria):
    """Stops nothing by itself; it lets the course know of each token of an answer."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell, self._tokens = tell, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        self._tokens += 1
        self._tell(self._tokens, SAMPLE_TOKENS)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _NothingToDo(Exception):  # noqa: N818  (no error: the way out of Trainer.train before its first step)
    pass


class _Trainer(SFTTrainer):
    loss_is_scaled_for_ga = True  # the loss is divided by the trained tokens of the whole window

    course: Course
    model: PeftModel
    fresh_optimizer = False

    def __init__(self, batches: Batches, model: PeftModel, args: SFTConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.batches = batches
        adapter = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(
            model=model,
            args=args,
            # TRL insists on a Dataset; the rows are read by our own loader
            train_dataset=Dataset.from_dict({"sequence": list(range(len(batches.sequences)))}),
            data_collator=batches.collate,
            processing_class=tokenizer,
        )
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:  # TRL cast them to bf16
                weight.data = adapter[name]
        self.remove_callback(PrinterCallback)
        self.window_tokens = 0
        self.last = Step(0, 0.0, 0.0, 0.0, 0.0, 0)
        self._window_loss: torch.Tensor | float = 0.0
        self._passes = 0

    def get_train_dataloader(self) -> DataLoader:
        # a generator of its own: a loader without one draws its seed from the global random state at each epoch
        return DataLoader(
            range(len(self.batches.sequences)),  # pyright: ignore[reportArgumentType]
            batch_sampler=self.batches,
            collate_fn=self.batches.collate,
            generator=torch.Generator(),
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        del return_outputs  # only transformers' evaluation asks for them
        hit("step.forward", self.args.per_device_train_batch_size)
        loss = summed_loss(model, inputs) / num_items_in_batch
        self._passes += 1
        self.course.passed(self._passes, self.args.gradient_accumulation_steps)
        self._window_loss = self._window_loss + loss.detach()
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: Any) -> torch.Tensor:
        self.window_tokens = sum(int(batch.pop("tokens")) for batch in batch_samples)
        trained = sum(int((batch["shift_labels"] != IGNORED).sum()) for batch in batch_samples)
        return torch.tensor(max(1, trained), device=device)

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self._look_at(norm)
        return norm

    def _look_at(self, norm: Any) -> None:
        """The one read from the device per optimizer step, before the update."""
        loss = torch.as_tensor(self._window_loss, dtype=torch.float32, device=self.args.device)
        loss_value, norm_value = torch.stack([loss, torch.as_tensor(norm).to(loss)]).tolist()
        self._window_loss, self._passes = 0.0, 0
        learning_rate = float(self._get_learning_rate())
        number = self.state.global_step + 1
        scaler = getattr(self.accelerator, "scaler", None)
        # with fp16 an overflow is the scaler's business: it skips the step and halves its scale, down to 1
        overflow_expected = scaler is not None and scaler.get_scale() > 1
        self.course.check(number, learning_rate, loss_value, 0.0 if overflow_expected else norm_value)
        self.last = Step(number, 0.0, loss_value, learning_rate, norm_value, self.window_tokens)

    def _send_telemetry(self) -> None:
        pass

    def floating_point_ops(self, inputs: Any) -> int:
        del inputs  # nobody reads the count, and it walks over every parameter at each forward pass
        return 0

    def track(self, logs: dict[str, float]) -> None:
        """Hand figures to the trackers (report_to), past transformers' ever-growing log history."""
        if self.args.report_to:
            self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def save_state_files(self, folder: Path) -> None:
        """What ``Trainer.train(resume_from_checkpoint)`` reads besides the adapter."""
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.fresh_optimizer or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = load_state(Path(checkpoint) / "scheduler.pt", "cpu")
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict(state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        lora.restore(self.model, lora.read_state(Path(resume_from_checkpoint) / lora.WEIGHTS))


class _Boundary(TrainerCallback):
    """The one callback: epochs set the order of the rows, step ends ask the course."""

    def __init__(self, course: Course, trainer: _Trainer, batches: Batches) -> None:
        self.course, self.trainer, self.batches = course, trainer, batches

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        if not self.course.begin():
            raise _NothingToDo

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self.batches.epoch = int(state.epoch or 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args
        last = self.trainer.last
        step = Step(state.global_step, state.epoch or 0.0, last.loss, last.learning_rate, last.grad_norm, last.tokens)
        self.trainer.track({"loss": step.loss, "grad_norm": step.grad_norm, "learning_rate": step.learning_rate})
        if not self.course.boundary(step):
            control.should_training_stop = True


def _arguments(
    recipe: ResolvedRecipe, *, planned_steps: int, seed: int, device: str, out_dir: Path, name: str
) -> SFTConfig:
    warmup = recipe.warmup_steps
    return SFTConfig(
        output_dir=str(out_dir),
        run_name=name,
        seed=seed,
        use_cpu=device == "cpu",
        bf16=recipe.compute_dtype == "bfloat16",
        fp16=recipe.compute_dtype == "float16",
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.accumulation,
        max_steps=planned_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=warmup if warmup is not None else int(planned_steps * recipe.warmup_ratio),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim=OPTIMIZERS[recipe.optimizer],
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=list(recipe.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _point_trackers(recipe: ResolvedRecipe, out_dir: Path, name: str) -> None:
    """Trackers write below the attempt's folder; a job's attempts are one run in wandb."""
    folder = out_dir / "trackers"
    if "wandb" in recipe.report_to:
        if importlib.util.find_spec("wandb") is None:
            raise UnavailableError("report_to names wandb, which is not installed.", hint="pip install 'celora[wandb]'")
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DIR", str(folder))
        os.environ.setdefault("WANDB_PROJECT", "celora")
        os.environ.setdefault("WANDB_RUN_ID", name)
        os.environ.setdefault("WANDB_RESUME", "allow")
    if "tensorboard" in recipe.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
