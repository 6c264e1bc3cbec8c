"""The canvas: its chain from each stage, its messages and their queues."""

from dataclasses import replace

import pytest

from celora.models.states import Stage
from celora.services.rounds.dispatch import Sending
from celora.tasks.pipeline import pipeline
from celora.workers.queues import queue_of


def names(canvas):
    return [step.task for step in getattr(canvas, "tasks", [canvas])]


SENDING = Sending(job_id="j", attempt=2, publication=3, stage=Stage.PREPARE, gpu_type="h100")


def test_prepare_stands_alone():
    assert names(pipeline(SENDING)) == ["celora.prepare"]


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        (Stage.TRAIN, ["celora.train", "celora.evaluate", "celora.publish"]),
        (Stage.EVALUATE, ["celora.evaluate", "celora.publish"]),
        (Stage.PUBLISH, ["celora.publish"]),
    ],
)
def test_the_rest_is_one_chain_from_any_stage(start, steps):
    assert names(pipeline(replace(SENDING, stage=start))) == steps


def test_messages_carry_ids_and_the_attempt_only_and_know_their_queue():
    train, evaluate, publish = pipeline(replace(SENDING, stage=Stage.TRAIN)).tasks
    assert train.kwargs == {"job_id": "j", "attempt": 2}
    assert train.args == ()
    assert (train.options["task_id"], train.options["parent_id"]) == ("j.train.2.3", "j")
    assert [step.options["queue"] for step in (train, evaluate, publish)] == ["gpu.h100", "gpu.h100", "celora"]
    assert queue_of(Stage.PREPARE, None) == "prep"
