"""Defines the states of a job, the order of its stages, and the ruling on a failed attempt.

Each status carries the sentence that people are shown. ``paused``, ``preempted`` and ``cancelling`` are reasons on a
row, not statuses.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tuning.recipe import Adjusted
from typing import Self

CONTROL_QUEUE, PREP_QUEUE, GPU_QUEUES = "celora", "prep", "gpu."
"""The names of the queues: of the control workers, of the prep workers, and the prefix of each GPU type's."""
OWN, DIRECT = "@@", "@="
"""Separate a GPU queue's name from the worker whose own queue it is: of a special worker, which reads no other GPU
queue, and of a worker that reads the common queue of its type as well. No name of a GPU type contains them."""


def common_queue(queue: str) -> str:
    """Return the queue whose slots a direct queue shares; any other queue as it is."""
    return queue.partition(DIRECT)[0] if queue.startswith(GPU_QUEUES) else queue


class Status(StrEnum):
    """The status of a job; ``meaning`` is the sentence that people are shown."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make a member from its value and the sentence beside it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    PENDING = "pending", "recorded; waits for its turn"
    QUEUED = "queued", "its next stage has been sent to a queue"
    RUNNING = "running", "a worker holds its lease"
    COMPLETED = "completed", "every stage done and the adapter checked"
    FAILED = "failed", "ended with an error"
    CANCELLED = "cancelled", "a person ended it; its process is gone"

    @property
    def final(self) -> bool:
        """True if the status cannot change any more."""
        return self in FINAL


FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
"""Statuses that never change again."""
LIVE = (Status.PENDING, Status.QUEUED, Status.RUNNING)
"""Statuses of jobs that have not ended."""


class Stage(StrEnum):
    """The four steps of a job, in order."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"

    @property
    def following(self) -> "Stage | None":
        """The stage after this one; None after the last."""
        stages = list(Stage)
        index = stages.index(self)
        return stages[index + 1] if index + 1 < len(stages) else None

    @property
    def on_gpu(self) -> bool:
        """True if the stage runs on a GPU queue and holds a slot."""
        return self in (Stage.TRAIN, Stage.EVALUATE)


class JobClass(StrEnum):
    """The class of a job: every job of a class comes before those of the classes below it."""

    URGENT = "urgent"
    """An operator grants it to a tenant; such a job may take a slot from a lower class."""
    NORMAL = "normal"
    """The class of a job that names none."""
    BACKGROUND = "background"
    """Runs where nobody else needs the slot."""

    @property
    def rank(self) -> int:
        """The place of the class: 0 comes first."""
        return list(JobClass).index(self)


class Reason(StrEnum):
    """The reason for a row's present status."""

    NONE = ""
    CANCELLING = "cancelling"
    PREEMPTED = "preempted"
    PAUSED = "paused"
    WORKER_LOST = "worker_lost"
    NOT_CLAIMED = "not_claimed"
    RETRYING = "retrying"
    ADJUSTED = "adjusted"


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """The decision on a failed attempt (``scheduling.retry``): another attempt, or the end.

    Attributes:
        again: True if the job is tried again.
        reason: The reason that the row shows meanwhile.
        paid: True if the attempt counts against the job's attempts.
        wait_s: Seconds until the next attempt may begin.
        blames_device: True if the worker's device gets a fault.
        adjusted: Limits that the next attempt has to keep; None: as before.
        least_memory_bytes: Memory that the next device must have; None: as before.
        words: The decision in a sentence, for the job's events.
    """

    again: bool
    reason: Reason = Reason.RETRYING
    paid: bool = True
    wait_s: float = 0.0
    blames_device: bool = False
    adjusted: "Adjusted | None" = None
    least_memory_bytes: int | None = None
    words: str = ""
