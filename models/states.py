"""The states of a job and the order of its stages; each member carries its meaning."""

from enum import StrEnum
from typing import Self


class Status(StrEnum):
    """Where a job stands. ``meaning`` is the sentence that people are shown."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """A member is its value; the sentence beside it becomes its meaning."""
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
        """Whether nothing changes the status any more."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


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
        """Whether the stage runs on a GPU queue and holds a slot."""
        return self in (Stage.TRAIN, Stage.EVALUATE)


class Reason(StrEnum):
    """Why a row is where it is; a reason, not a status."""

    NONE = ""
    CANCELLING = "cancelling"
    PREEMPTED = "preempted"
    PAUSED = "paused"
    WORKER_LOST = "worker_lost"
    NOT_CLAIMED = "not_claimed"
    RETRYING = "retrying"
    ADJUSTED = "adjusted"
    UNHEALTHY = "unhealthy"
