"""Builds the canvas: the chain of Celery messages that moves a job from a stage to its next wait or its end.

Submitting, resuming, retrying and recovering all build the canvas here, from the record. ``prepare`` stands alone,
because the job then waits in the record for a GPU slot; ``train → evaluate → publish`` is one chain. Every message
carries ids and the attempt only, has an id of its own (never used twice), and the job's id as its root, so that Flower
groups the messages.
"""

from typing import Any

from celery import chain

from ..models.states import Stage
from ..services.rounds.dispatch import Sending
from ..workers import queues
from ..workers.celery import app

_AFTER_PREPARE = (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def pipeline(sending: Sending) -> Any:
    """Build the canvas of a job from the stage of ``sending`` on; ``send`` passes the canvas to Celery.

    Example:
        The canvas of ``Stage.EVALUATE`` is ``evaluate | publish``.
    """
    start = sending.stage
    stages = [start] if start is Stage.PREPARE else _AFTER_PREPARE[_AFTER_PREPARE.index(start) :]
    return chain(*(_message(sending, stage) for stage in stages))


def send(sending: Sending) -> None:
    """Send the canvas of a job from the stage of ``sending`` on."""
    pipeline(sending).apply_async(root_id=sending.job_id)


def _message(sending: Sending, stage: Stage) -> Any:
    return app.signature(
        f"celora.{stage}",
        kwargs={"job_id": sending.job_id, "attempt": sending.attempt},
        immutable=True,
        options={
            "task_id": f"{sending.job_id}.{stage}.{sending.attempt}.{sending.publication}",
            "queue": queues.queue_of(stage, sending.gpu_type, sending.worker, direct=sending.direct),
            "parent_id": sending.job_id,
        },
    )
