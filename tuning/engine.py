"""Training: what an engine is, and how a request becomes a checked adapter folder.

The one engine that there is drives TRL (sft.py); another one has to keep the same contract: exact resume, drain, the
order of the events, the adapter's format. When to evaluate, save and stop is not the engine's business (course.py).
Torch is imported when training begins, not with this module.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from .failures import Situation, explained
from .protocol import Emit, TrainRequest, TrainResult

if TYPE_CHECKING:
    from .course import Course


class Engine(Protocol):
    """What trains: it turns a recipe and prepared data into an adapter, and stops only at step boundaries."""

    def run(self, course: "Course", resume_from: Path | None) -> None:
        """Train from the start or from a checkpoint; leave when ``course.begin`` or ``course.boundary`` says so.

        Long evaluations call ``course.evaluated`` as they go, and let through what it raises; long steps call
        ``course.passed``.
        """
        ...

    def evaluate(self) -> float | None:
        """Loss over the first held-out set (loss.py); None where there is none. Leaves no trace in the run."""
        ...

    def samples(self) -> list[dict[str, str]]:
        """A few greedy answers to held-out prompts: prompt, answer, reference. Leaves no trace in the run."""
        ...

    def keep_best(self) -> None:
        """Remember the adapter of this moment as the best so far; ``save`` writes it, a resume brings it back."""
        ...

    def restore_best(self) -> None:
        """Put the best adapter in the place of the last one."""
        ...

    def save(self, folder: Path) -> None:
        """Everything that the very same run needs to go on from here, in a new process."""
        ...

    def memory(self) -> tuple[int | None, int | None]:
        """Device memory in use (bytes) and utilisation (percent); None where there is no such number."""
        ...


def compute_dtype(device: str) -> Literal["float32", "bfloat16", "float16"]:
    """What this machine computes well in; see ``device.compute_dtype``."""
    from . import device as devices  # noqa: PLC0415  (torch takes seconds to import)

    return devices.compute_dtype(device)


def train(request: TrainRequest, emit: Emit, stop: threading.Event) -> TrainResult | None:
    """Train an adapter, from the start or from a checkpoint, and write it to ``<out_dir>/adapter``.

    Args:
        request: What to train; the folders in it are local.
        emit: Told what happens (protocol.py).
        stop: Set from outside to end the run at the next step boundary, after a checkpoint.

    Returns:
        What training did; None when ``stop`` ended it (the ``drained`` event says at which step).

    Raises:
        TrainingError: A number was not finite, the loss ran away, memory ran out, the device failed, or the run came
            short.
        SettingsError: The recipe does not fit the base or the device, or the checkpoint is another run's.
        StorageError: The checkpoint is torn, or there is no space for what has to be written.
    """
    out = Path(request.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    situation = Situation(request.device, out, recipe=request.resolved or request.recipe)
    with explained(situation):
        from .run import Run  # noqa: PLC0415  (torch, PEFT and TRL take seconds to import)

        return Run(request, emit, stop, situation).train()
