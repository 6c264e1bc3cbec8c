"""Writes the checkpoints of a run when they are due, and tolerates a disk that is full for a while."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DiskFullError
from ..protocol import Emit
from ..recipe import ResolvedRecipe
from . import checkpoint
from .engine import Engine
from .progress import Progress

MISSES_ALLOWED = 2
"""Number of checkpoints in a row that may fail because the disk is full. The next failure ends the training."""


@dataclass(frozen=True)
class CheckpointPlace:
    """The folder of a run's checkpoints and the facts of their manifests.

    Attributes:
        root: The attempt's ``checkpoints`` folder.
        attempt: The fencing number.
        settings: The settings that determine the run (checkpoint.py).
        versions: The versions of the libraries.
        keep: The number of checkpoints to keep.
        pinned: The checkpoint that the run resumed from; it is never deleted.
    """

    root: Path
    attempt: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    keep: int = 2
    pinned: Path | None = None


class CheckpointSaver:
    """Decides when a checkpoint is due, and writes it.

    Args:
        place: The folder and the manifest facts of the checkpoints.
        recipe: Its ``save_steps`` and ``save_minutes`` set the interval.
        emit: Receives a ``checkpoint`` event, or a ``note`` for each checkpoint that found no space on the disk.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self, place: CheckpointPlace, recipe: ResolvedRecipe, emit: Emit, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.place, self._recipe, self._emit, self._clock = place, recipe, emit, clock
        self._saved_at = clock()
        self._size_bytes = self.misses = 0

    def restart_clock(self) -> None:
        """Restart the minutes between checkpoints from now."""
        self._saved_at = self._clock()

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step."""
        by_step = self._recipe.save_steps is not None and step % self._recipe.save_steps == 0
        return by_step or self._clock() - self._saved_at >= self._recipe.save_minutes * 60

    def save(self, engine: Engine, progress: Progress, *, must: bool = False, epoch: int | None = None) -> None:
        """Write a checkpoint of the present state and delete the checkpoints that are too old.

        Args:
            engine: The engine whose state is saved.
            progress: The run's progress.
            must: The run ends with this checkpoint, so a full disk is an error at once.
            epoch: The epoch that ends here, counted from 1, where a checkpoint was asked for at its end.

        Raises:
            DiskFullError: The disk has no space, for the third time in a row or under ``must``.
        """

        def fill(folder: Path) -> None:
            engine.save(folder)
            progress.write(folder)

        place, step = self.place, progress.step
        try:
            path, size = checkpoint.write(
                place.root,
                step,
                attempt=place.attempt,
                settings=place.settings,
                versions=place.versions,
                fill=fill,
                need_bytes=self._size_bytes,
            )
        except DiskFullError as error:
            self.misses += 1
            if must or self.misses > MISSES_ALLOWED:
                raise
            self._emit("note", level="warning", message=f"Checkpoint at step {step} missed: {error}")
        else:
            self.misses, self._size_bytes = 0, size
            ended = {} if epoch is None else {"epoch": epoch}
            self._emit("checkpoint", step=step, path=str(path), size_bytes=size, **ended)
            checkpoint.prune(place.root, place.keep, place.pinned)
        self.restart_clock()
