"""What a figure is: a claim with a goal number, and a function that measures it and says where the goal is missed.

    @figure("R10", "A frozen worker that wakes up changes nothing", "20 freezes: 0 writes, 0 files, 0 trainers")
    def zombies(bench):
        ...
        return {"freezes": 20, "writes": 0}, misses      # numbers, and a sentence for each miss; none is a pass

The modules of ``figures/`` register theirs when they are imported; ``run.py`` runs them.
"""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES: dict[str, "Figure"] = {}


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    claim: str
    goal: str
    seeds: int
    measure: Callable[["Bench"], tuple[dict[str, Any], list[str]]]


class Bench:
    """What a figure gets to work with.

    Attributes:
        name: Of the figure.
        seed: Chooses the faults.
        folder: Empty, and removed afterwards.
        dice: Random numbers that follow from figure and seed.
    """

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.name, self.seed, self.folder = name, seed, folder
        self.dice = random.Random(f"{name} {seed}")
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        print(f"  {self.name}.{self.seed} {time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)


def figure(name: str, claim: str, goal: str, *, seeds: int = 1) -> Callable[[Any], Any]:
    """Register a function as the measurement of a figure."""

    def register(measure: Any) -> Any:
        assert name not in FIGURES, f"{name} is measured twice"
        FIGURES[name] = Figure(name, claim, goal, seeds, measure)
        return measure

    return register
