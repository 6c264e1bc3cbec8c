"""Counts the progress of a training run and measures its speed. A checkpoint carries the progress; no torch here."""

import json
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from .engine import Step

FILE = "progress.json"
PACE_STEPS = 20


@dataclass
class Progress:
    """The run's own numbers, which a checkpoint carries beside the engine's state.

    Attributes:
        step: The number of finished optimizer steps.
        tokens: The number of trained tokens, without padding.
        loss_sum: The sum of the steps' losses.
        train_s: Seconds in steps, without evaluations and saves.
        eval_loss: The loss of the last evaluation, made after step ``eval_step``.
        best_loss: The lowest eval loss, made after step ``best_step``.
        without_gain: The number of evaluations since ``best_step``.
        eval_due: An evaluation waits or was interrupted; it is made later, also after a resume.
        eval_s: Seconds in evaluations.
        first_losses: Losses of the first steps (divergence.py).
        last_losses: Losses of the last steps.
        drift: Each resume that was not exact, in words.
    """

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
    eval_s: float = 0.0
    first_losses: list[float] = field(default_factory=list[float])
    last_losses: list[float] = field(default_factory=list[float])
    drift: list[str] = field(default_factory=list[str])

    def write(self, folder: Path) -> None:
        """Write the numbers into a checkpoint, beside the engine's own files; floats keep every bit."""
        (folder / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the numbers from a checkpoint; names that this version does not know are ignored."""
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def add(self, step: Step, step_s: float) -> None:
        """Count a step."""
        self.step = step.number
        self.tokens += step.tokens
        self.loss_sum += step.loss
        self.train_s += step_s

    def add_evaluation(self, loss: float) -> bool:
        """Count an evaluation after the current step; return whether its loss is the best so far."""
        self.eval_loss, self.eval_step = loss, self.step
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.without_gain = loss, self.step, 0
            return True
        self.without_gain += 1
        return False


class Pace:
    """Measures the speed of the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=PACE_STEPS)

    def add(self, step_s: float, tokens: int) -> None:
        """Count a step."""
        self._steps.append((step_s, tokens))

    @property
    def step_s(self) -> float:
        """Return the mean seconds of a step; 0 before the first step."""
        return sum(seconds for seconds, _ in self._steps) / len(self._steps) if self._steps else 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Return the tokens a second; None where no time has passed."""
        seconds = sum(each for each, _ in self._steps)
        return sum(tokens for _, tokens in self._steps) / seconds if seconds > 0 else None
