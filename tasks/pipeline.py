"""The canvas: the chain of Celery messages that carries a job from a stage to its next resting place.

Submitting, resuming, retrying and recovering all build it here, from the record. ``prepare`` stands alone, because the
job then waits in the record for a GPU slot; ``train → evaluate → publish`` is one chain. Every message carries ids and
the attempt only, has an id of its own (never used twice), and the job's id as its root, so that Flower groups them.
"""

from dataclasses import dataclass
from typing import Any

from celery import chain

from ..models.states import Stage
from ..workers import queues
from ..workers.celery import app


@dataclass(frozen=True, kw_only=True)
class Sending:
    """What the messages of one go at a job need to know.

    Attributes:
        job_id: The job.
        attempt: Its attempt.
        publication: How often messages were sent for the job; makes their ids unique.
        gpu_type: Whose slot it holds; None for prepare and publish.
    """

    job_id: str
    attempt: int
    publication: int
    gpu_type: str | None


def pipeline(sending: Sending, start: Stage) -> Any:
    """The canvas of a job from ``start`` on; ``send`` gives it to Celery.

    Example:
        ``pipeline(sending, Stage.EVALUATE)`` is ``evaluate | publish``.
    """
    stages = (
        [start]
        if start is Stage.PREPARE
        else [stage for stage in _AFTER_PREPARE if _AFTER_PREPARE.index(stage) >= _AFTER_PREPARE.index(start)]
    )
    return chain(*(_message(sending, stage) for stage in stages))


def send(sending: Sending, start: Stage) -> None:
    """Send the canvas from ``start`` on."""
    pipeline(sending, start).apply_async(root_id=sending.job_id)


def queue_of(stage: Stage, gpu_type: str | None) -> str:
    """The queue that a stage's message goes to."""
    if stage is Stage.PREPARE:
        return queues.PREP
    if stage is Stage.PUBLISH or gpu_type is None:
        return queues.ENTRY
    return queues.gpu_queue(gpu_type)


_AFTER_PREPARE = (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def _message(sending: Sending, stage: Stage) -> Any:
    return app.signature(
        f"celora.{stage}",
        kwargs={"job_id": sending.job_id, "attempt": sending.attempt},
        immutable=True,
        options={
            "task_id": f"{sending.job_id}.{stage}.{sending.attempt}.{sending.publication}",
            "queue": queue_of(stage, sending.gpu_type),
            "parent_id": sending.job_id,
        },
    )
