"""The task decorator and the canvas."""

import pytest

from celora.models.states import Stage
from celora.tasks.base import task
from celora.tasks.pipeline import Sending, pipeline, queue_of


def test_a_misspelled_option_is_refused_at_import():
    with pytest.raises(TypeError, match="unknown option ignore_results; known are acks_late"):
        task("wrong", ignore_results=True)


def names(canvas):
    return [step.task for step in getattr(canvas, "tasks", [canvas])]


SENDING = Sending(job_id="j", attempt=2, publication=3, gpu_type="h100")


def test_prepare_stands_alone():
    assert names(pipeline(SENDING, Stage.PREPARE)) == ["celora.prepare"]


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        (Stage.TRAIN, ["celora.train", "celora.evaluate", "celora.publish"]),
        (Stage.EVALUATE, ["celora.evaluate", "celora.publish"]),
        (Stage.PUBLISH, ["celora.publish"]),
    ],
)
def test_the_rest_is_one_chain_from_any_stage(start, steps):
    assert names(pipeline(SENDING, start)) == steps


def test_messages_carry_ids_and_the_attempt_only_and_know_their_queue():
    train, evaluate, publish = pipeline(SENDING, Stage.TRAIN).tasks
    assert train.kwargs == {"job_id": "j", "attempt": 2}
    assert train.args == ()
    assert (train.options["task_id"], train.options["parent_id"]) == ("j.train.2.3", "j")
    assert [step.options["queue"] for step in (train, evaluate, publish)] == ["gpu.h100", "gpu.h100", "celora"]
    assert queue_of(Stage.PREPARE, None) == "prep"
