"""Checkpoints with the losses at their steps, the newest first."""

import pytest
from moved_job import Moved

from celora.errors import RequestError
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.models.tables import Checkpoint, MetricPoint
from celora.services.openai import checkpoints

POINTS = [
    {"step": 1, "train_loss": 2.0, "eval_loss": 3.0},
    {"step": 2, "train_loss": 1.5},
    {"step": 4, "train_loss": 1},
]


def read(job_id, **options):
    return checkpoints.page("default", job_id, **{"after": None, "limit": 10, **options})


def test_each_checkpoint_has_the_losses_known_at_its_step(create, installation):
    job_id = create()
    Moved(installation, job_id).complete(POINTS, checkpoints=(2, 3, 4))
    found, more = read(job_id)
    assert not more
    assert [(one.step, one.train_loss, one.valid_loss) for one in found] == [(4, 1, 3), (3, 1.5, 3), (2, 1.5, 3)]
    assert found[0].model.endswith(":ckpt-step-4")
    first, more = read(job_id, limit=2)
    assert ([one.step for one in first], more) == ([4, 3], True)
    assert [one.step for one in read(job_id, after=first[-1].id)[0]] == [2]


def test_a_step_that_was_done_again_shows_the_later_attempt_and_what_only_the_earlier_one_measured(on_both, create):
    job_id = create()
    moved = Moved(on_both, job_id)
    for stage in (Stage.PREPARE, Stage.TRAIN):
        moved.begin(stage)
        if stage is Stage.PREPARE:
            moved.finish(stage, base={"name": "tiny", "revision": "r1"})
    with on_both.transaction(Scope.everything) as session:
        at = on_both.now(session)
        for attempt, step, train, valid in ((1, 1, 9, 4), (1, 2, 8, None), (1, 6, 7, 5), (2, 3, 6, None), (2, 4, 5, 3)):
            losses = {"train_loss": train, "eval_loss": valid}
            session.add(MetricPoint(job_id=job_id, attempt=attempt, step=step, at=at, **losses))
        for attempt, step in ((1, 2), (1, 3), (2, 3), (2, 4), (2, 5)):
            facts = {"uri": "file:///c", "size_bytes": 1, "manifest_sha256": "0" * 64, "created_at": at, "epoch": 1}
            session.add(Checkpoint(job_id=job_id, attempt=attempt, step=step, **facts))
    found = [(one.step, one.train_loss, one.valid_loss) for one in read(job_id)[0]]
    assert found == [(5, 5, 3), (4, 5, 3), (3, 6, 4), (2, 8, 4)]


def test_only_the_checkpoints_of_epochs_are_shown_unless_the_job_asked_for_none(create, installation):
    for wanted, shown in ((True, [4]), (False, [4, 3])):
        job_id = create(celora={"epoch_checkpoints": wanted})
        moved = Moved(installation, job_id)
        for stage in (Stage.PREPARE, Stage.TRAIN):
            moved.begin(stage)
            if stage is Stage.TRAIN:
                moved.measure(
                    {"step": 4, "train_loss": 1.0, "train_accuracy": 0.5, "eval_accuracy": 0.25, "eval_loss": 2}
                )
                moved.checkpoint(3)
                moved.checkpoint(4, epoch=1)
            else:
                moved.finish(stage, base={"name": "tiny", "revision": "r1"})
        found = read(job_id)[0]
        assert [one.step for one in found] == shown
        assert (found[0].train_accuracy, found[0].valid_accuracy) == (0.5, 0.25)


@pytest.mark.parametrize("cursor", ["x", "ftckpt-other-2", "2"])
def test_a_cursor_that_is_no_checkpoint_is_refused(create, cursor):
    with pytest.raises(RequestError) as caught:
        read(create(), after=cursor)
    assert caught.value.param == "after"
