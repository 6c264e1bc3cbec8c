"""What a running attempt writes down."""

import pytest

from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Attempt, MetricPoint

WORKER = "cpu-0@here"


@pytest.fixture
def running(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    return record


def test_progress_goes_to_columns_by_name_and_the_rest_into_progress(running):
    assert running.record_progress(
        Claim("job", 1, WORKER), {"step": 3, "steps": 30, "resolved": {"rank": 4}, "loss": 2.5}
    )
    assert running.record_progress(Claim("job", 1, WORKER), {"step": 4, "eval_loss": 3.0})
    job = running.job()
    assert (job.step, job.steps, job.resolved) == (4, 30, {"rank": 4})
    assert job.progress == {"loss": 2.5, "eval_loss": 3.0}
    with running.database.session(Scope.everything) as session:
        assert session.get_one(Attempt, ("job", 1)).steps_done == 4


def test_the_step_of_an_attempt_never_falls_and_a_new_attempt_begins_where_it_resumes(running):
    mine = Claim("job", 1, WORKER)
    seen = []
    for step in (1, 4, 3, 5, 0, 5):
        assert running.record_progress(mine, {"step": step, "steps": 9})
        seen.append(running.job().step)
    assert seen == [1, 4, 4, 5, 5, 5]
    running.record_checkpoint(mine, step=4, uri="u", size_bytes=1, manifest_sha256="0" * 64)
    running.release(mine, Reason.PREEMPTED)
    assert running.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    assert running.claim("job", 2, Stage.TRAIN, worker_id=WORKER, lease_s=90)
    assert (running.job().attempt, running.job().step) == (2, 4)


def test_progress_of_nothing_still_tells_whether_the_job_is_ours(running):
    assert running.record_progress(Claim("job", 1, WORKER), {})
    assert not running.record_progress(Claim("job", 1, "other"), {})
    running.finish_cancel(Claim("job", 1, WORKER))
    assert not running.record_progress(Claim("job", 1, WORKER), {})


def test_points_of_one_step_share_a_row_and_nan_is_no_number(running):
    points = [
        {"step": 1, "train_loss": 3.0, "grad_norm": None, "epoch": 0.1},
        {"step": 2, "train_loss": 2.0, "gpu_memory_bytes": 2**40},
        {"step": 2, "eval_loss": 2.5},
    ]
    assert running.record_metric_points(Claim("job", 1, WORKER), points)
    assert running.record_metric_points(
        Claim("job", 1, WORKER), [{"step": 2, "eval_loss": 2.25, "learning_rate": 1e-3}]
    )
    assert running.record_metric_points(Claim("job", 1, WORKER), [])
    with running.database.session(Scope.everything) as session:
        first, second = session.query(MetricPoint).order_by(MetricPoint.step)
    assert (first.train_loss, first.eval_loss) == (3.0, None)
    found = (second.train_loss, second.eval_loss, second.learning_rate, second.gpu_memory_bytes)
    assert found == (2.0, 2.25, 1e-3, 2**40)


@pytest.mark.slow
def test_thousands_of_points_at_once(running):
    points = [{"step": step, "train_loss": 1.0, "tokens_per_s": 5.0} for step in range(5000)]
    assert running.record_metric_points(Claim("job", 1, WORKER), points)
    with running.database.session(Scope.everything) as session:
        assert session.query(MetricPoint).count() == 5000


def test_a_checkpoint_told_twice_is_one(running):
    for size in (1, 2):
        running.record_checkpoint(Claim("job", 1, WORKER), step=5, uri="u", size_bytes=size, manifest_sha256="0" * 64)
    running.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    with running.database.session(Scope.everything) as session:
        (found,) = queries.resume_candidates(session, "job")
    assert (found.step, found.attempt, found.size_bytes) == (5, 1, 2)


def test_checkpoints_of_the_present_attempt_are_no_candidates(running):
    running.record_checkpoint(Claim("job", 1, WORKER), step=5, uri="u", size_bytes=1, manifest_sha256="0" * 64)
    with running.database.session(Scope.everything) as session:
        assert queries.resume_candidates(session, "job") == []
