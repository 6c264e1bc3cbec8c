"""Names the queues, maps stages to queues, counts waiting messages, and refuses queues that a worker may not read.

``celora`` is the entry and carries short bookkeeping, ``prep`` carries the reading of data, and each GPU type of the
catalogue has its ``gpu.<type>``. Any other queue is refused when the worker starts: Celery would wait on it for ever.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from celery import Celery
from kombu import Queue

from ..errors import SettingsError
from ..models.states import CONTROL_QUEUE, DIRECT, GPU_QUEUES, OWN, PREP_QUEUE, Stage, common_queue
from ..settings.gpus import GpuType

ENTRY, PREP = CONTROL_QUEUE, PREP_QUEUE
AFTER_STAGES = 9
"""Priority of the checks of files and data, the lowest on Redis: they take the places of ``prepare``, which the
scheduling round gives out, so a worker takes each message of a ``prepare`` before them."""
FOREGROUND = "run-job"
"""Stands in the record in place of a queue for a job that ``celora run-job`` runs without a message."""


def gpu_queue(gpu_type: str) -> str:
    """Return the queue of a GPU type."""
    return f"{GPU_QUEUES}{gpu_type}"


def gpu_type_of(queue: str) -> str | None:
    """Return the GPU type that a queue belongs to; None for any other queue."""
    return common_queue(queue).removeprefix(GPU_QUEUES).partition(OWN)[0] if queue.startswith(GPU_QUEUES) else None


def own_queue(gpu_type: str, worker: str) -> str:
    """Return the queue that one worker alone reads, since it is reserved for a tenant or carries labels.

    Celery's own ``worker_direct`` queues would stand beside the common queue, which such a worker must not read, and
    outside of the names on which the broker's access rules are built.
    """
    return f"{gpu_queue(gpu_type)}{OWN}{worker}"


def direct_queue(gpu_type: str, worker: str) -> str:
    """Return the queue that one worker reads beside the common queue of its type, for jobs whose base it holds."""
    return f"{gpu_queue(gpu_type)}{DIRECT}{worker}"


def worker_of(queue: str | None) -> str:
    """Return the special worker whose own queue a name is; empty for any other queue."""
    return queue.partition(OWN)[2] if queue and queue.startswith(GPU_QUEUES) else ""


def direct_worker_of(queue: str | None) -> str:
    """Return the worker whose direct queue a name is; empty for any other queue."""
    return queue.partition(DIRECT)[2] if queue and queue.startswith(GPU_QUEUES) else ""


def queue_of(stage: Stage, gpu_type: str | None, worker: str = "", *, direct: bool = False) -> str:
    """Return the queue that a stage's message is sent to.

    Args:
        stage: The stage.
        gpu_type: The type of the job's slot; None without one.
        worker: The worker that the message means; empty for any worker of the type.
        direct: True where that worker reads the common queue as well.
    """
    if stage is Stage.PREPARE:
        return PREP
    if stage is Stage.PUBLISH or gpu_type is None:
        return ENTRY
    if not worker:
        return gpu_queue(gpu_type)
    return direct_queue(gpu_type, worker) if direct else own_queue(gpu_type, worker)


def declared(types: Mapping[str, GpuType]) -> tuple[Queue, ...]:
    """List every queue of an installation."""
    return tuple(Queue(name) for name in (ENTRY, PREP, *map(gpu_queue, types)))


def check(
    names: Iterable[str],
    types: Mapping[str, GpuType],
    device_type: str | None,
    *,
    worker: str = "",
    special: bool = False,
) -> None:
    """Refuse queues that do not exist or that this device may not read.

    Args:
        names: The queues that the worker is to read.
        types: The GPU catalogue.
        device_type: The type of the worker's device; None for a worker without one.
        worker: The worker's name.
        special: True for a worker that is reserved or carries labels: of GPU queues it reads its own alone.

    Raises:
        SettingsError: A queue is unknown, belongs to another GPU type than the device's, or to another worker.
    """
    common = list(map(gpu_queue, types))
    own = [(own_queue if special else direct_queue)(name, worker) for name in types]
    known = [ENTRY, PREP, *own] if special else [ENTRY, PREP, *common, *own]
    for name in names:
        if special and name in common:
            raise SettingsError(
                f"-Q {name} is the queue of every worker, and {worker} carries labels or is reserved for a tenant.",
                hint=f"Use -Q {own_queue(str(gpu_type_of(name)), worker)}, or --gpu without -Q and -n.",
            )
        if name not in known:
            shown = known if special else [ENTRY, PREP, *common]
            raise SettingsError(f"there is no queue {name!r}.", hint=f"Use one of {', '.join(shown)}.")
        wanted = gpu_type_of(name)
        if wanted is not None and wanted != device_type:
            device = (
                f"this worker's device is of type {device_type}" if device_type else "this worker has no such device"
            )
            raise SettingsError(
                f"-Q {name} needs a GPU of type {wanted}, but {device}.",
                hint="Leave -Q away: `celery -A celora.workers worker --gpu 0` finds its own queue.",
            )


def delete(app: Celery, names: Iterable[str]) -> int:
    """Delete queues that nobody reads any more, with their messages and bindings; return the number of the messages.

    Raises:
        Exception: One of ``messages.UNREACHABLE``, where the broker cannot be reached.
    """
    dropped = 0
    with app.connection_for_write() as connection:
        for name in names:
            queue: Any = app.amqp.queues.new_missing(name)(connection.default_channel)
            queue.declare()  # kombu deletes the bindings that this process knows
            dropped += int(queue.purge() or 0)
            queue.delete()
    return dropped


def depths(app: Celery, names: Iterable[str]) -> dict[str, int]:
    """Count the messages of each queue, all priorities together (a list each on Redis); a missing queue has 0.

    Raises:
        Exception: One of ``messages.UNREACHABLE``, where the broker cannot be reached.
    """
    found: dict[str, int] = {}
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        for name in names:
            try:
                found[name] = int(channel.queue_declare(queue=name, passive=True).message_count)
            except connection.channel_errors:
                found[name] = 0  # on Redis a queue without messages does not exist
    return found
