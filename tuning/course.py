"""Where a training run stands, and what is due at each step boundary; the same for every engine, and without torch.

An engine calls ``check`` before each optimizer update and ``boundary`` after it. Everything that must not differ
between engines is decided here: numbers that are not finite and a loss that ran away stop the run before they reach the
weights; evaluation, best-so-far and early stopping; when to save, and that a drain is a save and nothing else, so that
no step is done twice. An evaluation that a drain cuts short is due again where the run goes on.

The adapter that a run ends with is the last one, unless early stopping was asked for: then it is the best. (A lower
eval loss and better answers are not the same thing, and a run without early stopping should end where its recipe says.)
"""

import math
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..settings.errors import DiskFullError, DivergedError, NonFiniteError
from ..settings.failpoints import hit
from . import checkpoint
from .divergence import LossWatch
from .engine import Engine
from .failures import Situation
from .protocol import Emit
from .recipe import ResolvedRecipe

MISSES_ALLOWED = 2
"""Checkpoints in a row that may find the disk full; training goes on without them, the next miss ends it."""
EVALUATIONS_A_RUN = 4
QUIET_S = 2.0
"""An evaluation tells how far it is after so many seconds without an event, and a long step after fifteen times that:
whoever watches must be able to tell slow from stuck."""

Outcome = Literal["running", "finished", "stopped_early", "drained"]


@dataclass
class Progress:
    """What a checkpoint carries beside the engine's own state."""

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    train_s: float = 0.0
    eval_loss: float | None = None
    eval_step: int | None = None
    best_loss: float | None = None
    best_step: int | None = None
    without_gain: int = 0
    eval_due: bool = False
    first_losses: list[float] = field(default_factory=list[float])
    last_losses: list[float] = field(default_factory=list[float])
    drift: list[str] = field(default_factory=list[str])
    """Each resume that was not exact, in words."""


class Interrupted(Exception):  # noqa: N818  (no error: an evaluation makes way for a drain)
    """Raised out of an evaluation when the run is told to stop."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, as the engine saw it."""

    number: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int


@dataclass
class Saving:
    """How checkpoints of this run are written.

    Attributes:
        root: The attempt's ``checkpoints`` folder.
        attempt: The fencing number.
        settings: What shapes the run (checkpoint.py).
        versions: Of the libraries.
        keep: How many to keep.
        pinned: The checkpoint that the run was resumed from; never deleted.
    """

    root: Path
    attempt: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    keep: int = 2
    pinned: Path | None = None
    size_bytes: int = 0
    misses: int = 0


def evaluation_steps(planned_steps: int, every: int | None) -> list[int]:
    """After which steps a run is evaluated: every so many, else four times; the last step always.

    Example:
        10 steps give 3, 5, 8 and 10.
    """
    if every is None:
        return sorted({-(-planned_steps * part // EVALUATIONS_A_RUN) for part in range(1, EVALUATIONS_A_RUN + 1)})
    return sorted({*range(every, planned_steps + 1, every), planned_steps})


@dataclass
class Course:
    """A run on its way. See the module's docstring."""

    engine: Engine
    recipe: ResolvedRecipe
    planned_steps: int
    emit: Emit
    stop: threading.Event
    saving: Saving
    progress: Progress = field(default_factory=Progress)
    outcome: Outcome = "running"
    clock: Callable[[], float] = time.monotonic
    guess_nats: float | None = None
    situation: Situation = field(default_factory=lambda: Situation("cpu"))

    def __post_init__(self) -> None:
        self._mark = self._saved_at = self._told = self.clock()
        self._losses = LossWatch(self.guess_nats, self.progress.first_losses, self.progress.last_losses)
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)
        self._eval_s = 0.0
        self.eval_steps = evaluation_steps(self.planned_steps, self.recipe.eval_steps)
        """Steps after which the run is evaluated."""

    def begin(self) -> bool:
        """Called once the engine stands at its first step, or where it resumes; False when there is nothing to do."""
        if self.progress.eval_due and not self.stop.is_set():
            self._evaluate()
        if self.outcome == "running" and self.progress.step >= self.planned_steps and not self.progress.eval_due:
            self.outcome = "finished"
        if self.outcome == "running" and self.stop.is_set():
            self.outcome = "drained"
        self._doing("training")
        self._mark = self._saved_at = self._told = self.clock()
        return self.outcome == "running"

    def check(self, number: int, learning_rate: float, loss: float, grad_norm: float) -> None:
        """Refuse a step that would put a NaN or an infinity into the weights, or drive a run further that has diverged.

        Called before the update.

        Raises:
            NonFiniteError: The loss or the gradient norm is not finite; with step and learning rate.
            DivergedError: The loss has run away (divergence.py); with step and learning rate.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._watch(number, learning_rate, loss)
            return
        what = "loss" if not math.isfinite(loss) else "gradient norm"
        value = loss if what == "loss" else grad_norm
        raise NonFiniteError(
            f"The {what} is {value} at step {number} of {self.planned_steps} (learning rate {learning_rate:.3g}); "
            "training stopped before it reached the weights.",
            hint=f"Lower learning_rate (it was {self.recipe.learning_rate:g} at its peak), warm up longer, and look at "
            "the rows of this step; checkpoints from before are good.",
        )

    def boundary(self, step: Step) -> bool:
        """After an optimizer update: report, evaluate, save as due. False when the engine must leave."""
        now = self.clock()
        hit("step.done")
        self._count(step, now - self._mark)
        self._report(step)
        hit("step.reported")
        self.progress.eval_due = self._evaluations_after(step.number - 1) > self._evaluations_after(step.number)
        if self.progress.eval_due and not self.stop.is_set():
            self._evaluate()
        if self.outcome == "running" and self.stop.is_set():
            self._save(must=True)
            self.outcome = "drained"
        elif self.outcome == "running" and step.number >= self.planned_steps:
            self.outcome = "finished"
        elif self.outcome == "running" and self._save_due():
            self._save()
            if self.stop.is_set() and not self.saving.misses:
                self.outcome = "drained"  # asked while it was saved: nothing is left to do here
        self._doing("training")
        self._mark = self._told = self.clock()
        return self.outcome == "running"

    def evaluated(self, done: int, total: int) -> None:
        """An engine calls this within an evaluation, the more often the better.

        Raises:
            Interrupted: The run is to stop; the evaluation will be made where it goes on.
        """
        if self.outcome == "running" and self.stop.is_set():
            raise Interrupted
        self._tell("evaluating", done, total, QUIET_S)

    def passed(self, done: int, total: int) -> None:
        """An engine calls this within a step, after each forward pass."""
        self._tell(f"in step {self.progress.step + 1}", done, total, 15 * QUIET_S)

    @property
    def keeps_best(self) -> bool:
        """Whether the run ends with its best adapter instead of its last."""
        return self.recipe.early_stopping_patience is not None and self.progress.best_step is not None

    def _watch(self, number: int, learning_rate: float, loss: float) -> None:
        losses, progress = self._losses, self.progress
        diverged = losses.add(loss)
        progress.first_losses, progress.last_losses = losses.first, losses.last
        if not diverged:
            return
        raise DivergedError(
            f"The loss has run away: step {number} of {self.planned_steps} and those before it lose {losses.now:.2f} "
            f"nats a token and more, the run began at {losses.limit:.2f} and less (learning rate {learning_rate:.3g}); "
            "training stopped.",
            hint=f"Lower learning_rate (it was {self.recipe.learning_rate:g} at its peak) or warm up longer, and start "
            "afresh: the last checkpoints carry the damage.",
            facts={"step": number, "loss": losses.now, "began_at": losses.limit, "learning_rate": learning_rate},
        )

    def _doing(self, what: str) -> None:
        """Not taken back when something is raised: whoever explains the failure looks it up."""
        self.situation.doing, self.situation.step = what, self.progress.step + (what == "training")

    def _tell(self, phase: str, done: int, total: int, quiet_s: float) -> None:
        if self.clock() - self._told >= quiet_s:
            self._told = self.clock()
            self.emit("phase", phase=phase, done=done, total=total)

    def _count(self, step: Step, step_s: float) -> None:
        self._recent.append((step_s, step.tokens))
        self.progress.step = step.number
        self.progress.tokens += step.tokens
        self.progress.loss_sum += step.loss
        self.progress.train_s += step_s

    def _report(self, step: Step) -> None:
        seconds = sum(item[0] for item in self._recent)
        steps_left = self.planned_steps - step.number
        evaluations_left = self._evaluations_after(step.number)
        memory_bytes, utilisation = self.engine.memory()
        self.emit(
            "progress",
            step=step.number,
            steps=self.planned_steps,
            epoch=round(step.epoch, 4),
            loss=step.loss,
            learning_rate=step.learning_rate,
            grad_norm=step.grad_norm,
            tokens=self.progress.tokens,
            tokens_per_s=sum(item[1] for item in self._recent) / seconds if seconds > 0 else None,
            eta_s=steps_left * seconds / len(self._recent) + evaluations_left * self._eval_s,
            gpu_memory_bytes=memory_bytes,
            gpu_utilisation=utilisation,
        )

    def _evaluations_after(self, step: int) -> int:
        return len(self.eval_steps) - bisect_right(self.eval_steps, step)

    def _evaluate(self) -> None:
        progress, began = self.progress, self.clock()
        self._doing("evaluating")
        self._told = began
        try:
            loss = self.engine.evaluate()
            samples = self.engine.samples() if loss is not None and math.isfinite(loss) else []
        except Interrupted:
            return
        progress.eval_due = False
        if loss is None:
            return
        progress.eval_loss, progress.eval_step = loss, progress.step
        self.emit("eval", step=progress.step, eval_loss=loss)
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"The eval loss is {loss} at step {progress.step}, though the training loss was finite.",
                hint="Look at the held-out rows; a lower learning_rate helps where the adapter has grown too large.",
            )
        for sample in samples:
            self.emit("sample", step=progress.step, **sample)
        self._compare(loss)
        self._eval_s = self.clock() - began

    def _compare(self, loss: float) -> None:
        progress, patience = self.progress, self.recipe.early_stopping_patience
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.without_gain = loss, progress.step, 0
            if patience is not None:
                self.engine.keep_best()
            return
        progress.without_gain += 1
        if patience is not None and progress.without_gain >= patience and progress.step < self.planned_steps:
            self.outcome = "stopped_early"

    def _save_due(self) -> bool:
        by_step = self.recipe.save_steps is not None and self.progress.step % self.recipe.save_steps == 0
        return by_step or self.clock() - self._saved_at >= self.recipe.save_minutes * 60

    def _save(self, *, must: bool = False) -> None:
        saving = self.saving
        self._doing("saving")
        try:
            path, size = checkpoint.write(
                saving.root,
                self.progress.step,
                attempt=saving.attempt,
                settings=saving.settings,
                versions=saving.versions,
                fill=self._fill,
                need_bytes=saving.size_bytes,
            )
        except DiskFullError as error:
            saving.misses += 1
            if must or saving.misses > MISSES_ALLOWED:
                raise
            self.emit("note", level="warning", message=f"Checkpoint at step {self.progress.step} missed: {error}")
        else:
            saving.misses, saving.size_bytes = 0, size
            self.emit("checkpoint", step=self.progress.step, path=str(path), size_bytes=size)
            checkpoint.prune(saving.root, saving.keep, saving.pinned)
        self._saved_at = self.clock()

    def _fill(self, folder: Path) -> None:
        self.engine.save(folder)
        checkpoint.write_progress(folder, asdict(self.progress))
