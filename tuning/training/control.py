"""Drives an engine from step to step, and decides the actions of each step boundary in the same way for every engine.

Every decision that must not differ between engines is here. Numbers that are not finite and a diverging loss stop the
run before they reach the weights. The module decides about evaluation, the best adapter so far and early stopping. It
decides when to save; a drain only saves, so that no step is done twice. An evaluation that a drain interrupts is due
again when the run resumes. No torch here.

The evaluations that the job did not request may take a tenth of the time of the run's steps. An evaluation that would
exceed this share waits until the steps took long enough, at the latest until the last step, which is always evaluated.
Requested evaluations (``eval_steps``, ``epoch_checkpoints``, or early stopping, which decides by them) run when they
are due.

A run ends with its last adapter, or with its best one under early stopping. (A lower eval loss and better answers are
not the same thing, and a run without early stopping should end where its recipe says.)
"""

import math
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ...errors import DivergedError, NonFiniteError
from ...settings.failpoints import hit
from ..failures import Situation
from ..protocol import PART_S, WHOLE_DEVICE, Emit, Turn
from ..recipe import ResolvedRecipe, epoch_ends, evaluations_of
from .divergence import LossWatch
from .engine import Engine, Step
from .progress import Pace, Progress
from .saving import CheckpointPlace, CheckpointSaver

QUIET_S = 2.0
"""Seconds without an event after which an evaluation reports its progress; a long step reports after fifteen times as
long. So an observer can distinguish a slow run from a stuck one."""

EVALUATION_SHARE = 0.1
"""Largest ratio of the time of a run's evaluations, without the last one, to the time of its steps."""

CHEAP_S = 0.5
"""Seconds of an evaluation below which it never waits."""

FORWARD_SHARE = 1 / 3
"""Ratio of a forward pass's time to that of a forward and a backward pass: a backward pass makes twice the products."""

Outcome = Literal["running", "finished", "stopped_early", "drained"]


class Interrupted(Exception):  # noqa: N818  (no error: an evaluation makes way for a drain)
    """Interrupts an evaluation when the run is asked to stop."""


class RunControl:
    """Drives one run from its first step to its last. See the module's docstring.

    Call ``begin`` once, then ``advance`` for as long as they return True; several runs can be advanced in turns.

    Args:
        engine: Computes the steps.
        recipe: The resolved recipe.
        planned_steps: Optimizer steps of the whole run.
        emit: Receives the events (protocol.py).
        stop: Set from outside to end the run at the next step boundary.
        place: The folder and the manifest facts of the checkpoints.
        progress: The progress of a resumed run; a fresh one unless given.
        situation: Updated at each phase for the explanation of a failure.
        turn: The run's turn on its device, which is over after each step; its clock measures the steps.
        clock: A monotonic clock in seconds in place of the turn's.

    Attributes:
        outcome: ``running``, or the way in which the run ended.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        recipe: ResolvedRecipe,
        planned_steps: int,
        emit: Emit,
        stop: threading.Event,
        place: CheckpointPlace,
        progress: Progress | None = None,
        situation: Situation | None = None,
        turn: Turn = WHOLE_DEVICE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.engine, self.recipe, self.planned_steps = engine, recipe, planned_steps
        clock = clock or turn.clock
        self.emit, self.stop, self.turn, self.clock = emit, stop, turn, clock
        self.progress = progress or Progress()
        self.situation = situation or Situation("cpu")
        self.saver = CheckpointSaver(place, recipe, emit, clock)
        self.outcome: Outcome = "running"
        self.eval_steps = evaluations_of(planned_steps, recipe)
        """Steps after which the run is evaluated."""
        self.epoch_ends = epoch_ends(planned_steps, recipe) if recipe.epoch_checkpoints else []
        """Steps after which a checkpoint is written because an epoch ends."""
        vocabulary = engine.facts.vocabulary
        guess_nats = math.log(vocabulary) if vocabulary else None
        self._losses = LossWatch(guess_nats, self.progress.first_losses, self.progress.last_losses)
        self._pace = Pace()
        self._eval_s = 0.0
        self._wait_noted = False
        self._reported_at = clock()

    def begin(self, resume_from: Path | None = None) -> bool:
        """Start the engine, or resume it from a checkpoint; return whether the run has a step to take."""
        if resume_from is None:
            self.engine.start()
        else:
            self.engine.resume(resume_from)
        if self._evaluates_now():
            self._evaluate()
        if self.outcome == "running" and self.progress.step >= self.planned_steps and not self.progress.eval_due:
            self.outcome = "finished"
        if self.outcome == "running" and self.stop.is_set():
            self.outcome = "drained"
        self._enter_phase("training")
        self.saver.restart_clock()
        return self.outcome == "running"

    def advance(self) -> bool:
        """Take one step and the actions that are due after it; return whether the run continues.

        Raises:
            NonFiniteError: A loss or a gradient norm is not finite; the weights are those before the step.
            DivergedError: The loss has diverged (divergence.py); the weights are those before the step.
            DiskFullError: The disk has no space for a required checkpoint.
        """
        self.turn.over()
        began = self._reported_at = self.clock()
        step = self.engine.step(self._report_pass)
        self._refuse_unsound(step)
        self.engine.update()
        hit("step.done")
        step_s = self.clock() - began
        self._pace.add(step_s, step.tokens)
        self.progress.add(step, step_s)
        self._report_step(step)
        hit("step.reported")
        self._finish_step()
        self._enter_phase("training")
        return self.outcome == "running"

    @property
    def keeps_best(self) -> bool:
        """Return whether the run ends with its best adapter instead of its last."""
        return self.recipe.early_stopping_patience is not None and self.progress.best_step is not None

    def _refuse_unsound(self, step: Step) -> None:
        """Refuse a step that would put a NaN or an infinity into the weights, or would continue a diverged run."""
        finite_norm = step.overflow or math.isfinite(step.grad_norm)
        if math.isfinite(step.loss) and finite_norm:
            self._refuse_diverged(step)
            return
        what = "loss" if not math.isfinite(step.loss) else "gradient norm"
        value = step.loss if what == "loss" else step.grad_norm
        raise NonFiniteError(
            f"The {what} is {value} at step {step.number} of {self.planned_steps} (learning rate "
            f"{step.learning_rate:.3g}); training stopped before it reached the weights.",
            hint=f"Lower learning_rate (it was {self.recipe.learning_rate:g} at its peak), warm up longer, and look at "
            "the rows of this step; checkpoints from before are good.",
        )

    def _refuse_diverged(self, step: Step) -> None:
        losses, progress = self._losses, self.progress
        diverged = losses.add(step.loss)
        progress.first_losses, progress.last_losses = losses.first, losses.last
        if not diverged:
            return
        rate = step.learning_rate
        raise DivergedError(
            f"The loss has run away: step {step.number} of {self.planned_steps} and those before it lose "
            f"{losses.now:.2f} nats a token and more, the run began at {losses.limit:.2f} and less (learning rate "
            f"{rate:.3g}); training stopped.",
            hint=f"Lower learning_rate (it was {self.recipe.learning_rate:g} at its peak) or warm up longer, and start "
            "afresh: the last checkpoints carry the damage.",
            facts={"step": step.number, "loss": losses.now, "began_at": losses.limit, "learning_rate": rate},
        )

    def _finish_step(self) -> None:
        """Evaluate, drain, finish or save, as due."""
        progress = self.progress
        progress.eval_due = progress.eval_due or progress.step in self.eval_steps
        if self._evaluates_now():
            self._evaluate()
        ends_epoch = progress.step in self.epoch_ends
        if self.outcome == "running" and self.stop.is_set():
            self._save(must=True)
            self.outcome = "drained"
        elif self.outcome != "running" or progress.step >= self.planned_steps:
            if ends_epoch:
                self._save()
            self.outcome = "finished" if self.outcome == "running" else self.outcome
        elif ends_epoch or self.saver.due(progress.step):
            self._save()
            if self.stop.is_set() and not self.saver.misses:
                self.outcome = "drained"  # the stop came during the save: nothing remains to do

    def _save(self, *, must: bool = False) -> None:
        self._enter_phase("saving")
        ends, step = self.epoch_ends, self.progress.step
        self.saver.save(self.engine, self.progress, must=must, epoch=ends.index(step) + 1 if step in ends else None)

    def _evaluates_now(self) -> bool:
        """Return whether an evaluation is due and need not wait; an event reports the first evaluation that waits."""
        progress, recipe = self.progress, self.recipe
        if not progress.eval_due or self.stop.is_set():
            return False
        decides = recipe.early_stopping_patience is not None
        asked_for = recipe.eval_steps is not None or recipe.epoch_checkpoints or decides
        cost_s = self._eval_s or self._expected_eval_s()
        if asked_for or progress.step >= self.planned_steps or cost_s < CHEAP_S:
            return True
        if progress.eval_s + cost_s <= EVALUATION_SHARE * progress.train_s:
            return True
        if not self._wait_noted:
            self._wait_noted = True
            message = (
                f"The evaluation after step {progress.step} waits: it would take about {cost_s:.0f} s, and evaluations "
                f"may take a tenth of the {progress.train_s:.0f} s of the steps so far. With eval_steps set none waits."
            )
            self.emit("note", level="info", kind="evaluation_waits", message=message)
        return False

    def _expected_eval_s(self) -> float:
        """Estimate the seconds of the first evaluation by the speed of the steps."""
        trained = self.progress.tokens
        per_token_s = self.progress.train_s / trained if trained else 0.0
        return self.engine.facts.held_out_tokens * per_token_s * FORWARD_SHARE

    def _evaluate(self) -> None:
        began = self._reported_at = self.clock()
        self._enter_phase("evaluating")
        try:
            loss = self.engine.evaluate(self._report_evaluation)
            samples = self.engine.samples(self._report_evaluation) if loss is not None and math.isfinite(loss) else []
        except Interrupted:
            return
        progress = self.progress
        progress.eval_due = False
        if loss is None:
            return
        self.emit("eval", step=progress.step, eval_loss=loss, eval_accuracy=self.engine.eval_accuracy)
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"The eval loss is {loss} at step {progress.step}, though the training loss was finite.",
                hint="Look at the held-out rows; a lower learning_rate helps where the adapter has grown too large.",
            )
        for sample in samples:
            self.emit("sample", step=progress.step, **asdict(sample))
        self._stop_early_or_go_on(loss)
        self._eval_s = self.clock() - began
        progress.eval_s += self._eval_s

    def _stop_early_or_go_on(self, loss: float) -> None:
        patience, progress = self.recipe.early_stopping_patience, self.progress
        best = progress.add_evaluation(loss)
        if patience is None:
            return
        if best:
            self.engine.keep_best()
        elif progress.without_gain >= patience and progress.step < self.planned_steps:
            self.outcome = "stopped_early"

    def _enter_phase(self, doing: str) -> None:
        """Record the phase; an exception does not reset it, since the explanation of a failure reads it."""
        self.situation.doing, self.situation.step = doing, self.progress.step + (doing == "training")

    def _report_pass(self, done: int, total: int) -> None:
        self._report(f"in step {self.progress.step + 1}", done, total, 15 * QUIET_S)

    def _report_evaluation(self, done: int, total: int) -> None:
        if self.outcome == "running" and self.stop.is_set():
            raise Interrupted
        self.turn.over(PART_S)
        self._report("evaluating", done, total, QUIET_S)

    def _report(self, phase: str, done: int, total: int, quiet_s: float) -> None:
        if self.clock() - self._reported_at >= quiet_s:
            self._reported_at = self.clock()
            self.emit("phase", phase=phase, done=done, total=total)

    def _report_step(self, step: Step) -> None:
        evaluations_left = len(self.eval_steps) - bisect_right(self.eval_steps, step.number)
        memory_bytes, utilisation = self.engine.memory()
        self.emit(
            "progress",
            step=step.number,
            steps=self.planned_steps,
            epoch=round(step.epoch, 4),
            loss=step.loss,
            accuracy=step.accuracy,
            learning_rate=step.learning_rate,
            grad_norm=step.grad_norm,
            tokens=self.progress.tokens,
            tokens_per_s=self._pace.tokens_per_s,
            eta_s=(self.planned_steps - step.number) * self._pace.step_s + evaluations_left * self._eval_s,
            gpu_memory_bytes=memory_bytes,
            gpu_utilisation=utilisation,
        )
