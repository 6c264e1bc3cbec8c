"""The queues, and which worker may read which.

``celora`` is the entry and short bookkeeping, ``prep`` reads data, and each GPU type of the catalogue has its
``gpu.<type>``. A queue that is none of these is refused when the worker starts: Celery would wait on it for ever.
"""

from collections.abc import Iterable, Mapping

from kombu import Queue

from ..settings.errors import SettingsError
from ..settings.gpus import GpuType

ENTRY = "celora"
PREP = "prep"
FOREGROUND = "run-job"
"""No queue: what the record says of a job that ``celora run-job`` carries without a message."""


def gpu_queue(gpu_type: str) -> str:
    """The queue of a GPU type."""
    return f"gpu.{gpu_type}"


def gpu_type_of(queue: str) -> str | None:
    """The GPU type that a queue belongs to; None for the others."""
    return queue.removeprefix("gpu.") if queue.startswith("gpu.") else None


def declared(types: Mapping[str, GpuType]) -> tuple[Queue, ...]:
    """Every queue of an installation."""
    return tuple(Queue(name) for name in (ENTRY, PREP, *map(gpu_queue, types)))


def check(names: Iterable[str], types: Mapping[str, GpuType], device_type: str | None) -> None:
    """Refuse queues that do not exist or that this device may not read.

    Args:
        names: What the worker was told to read.
        types: The GPU catalogue.
        device_type: The type of the worker's device; None for a worker without one.

    Raises:
        SettingsError: A queue is unknown, or belongs to another GPU type than the device's.
    """
    known = [ENTRY, PREP, *map(gpu_queue, types)]
    for name in names:
        if name not in known:
            raise SettingsError(f"there is no queue {name!r}.", hint=f"Use one of {', '.join(known)}.")
        wanted = gpu_type_of(name)
        if wanted is not None and wanted != device_type:
            device = (
                f"this worker's device is of type {device_type}" if device_type else "this worker has no such device"
            )
            raise SettingsError(
                f"-Q {name} needs a GPU of type {wanted}, but {device}.",
                hint="Leave -Q away: `celery -A celora.workers worker --gpu 0` finds its own queue.",
            )
