"""The rows of a job go with it, and a new row needs only what a submission knows."""

from sqlalchemy import delete, func, select

from celora.models.scope.scope import Scope
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Attempt, Event, Job, MetricPoint


def test_a_new_job_has_the_defaults_of_its_columns(record):
    job = record.job(record.new())
    assert (job.attempt, job.publication, job.stale_attempts, job.step) == (1, 0, 0, 0)
    assert (job.reason, job.wait_reason, job.paused, job.cancel_requested) == (Reason.NONE, "", False, False)
    assert (job.cost, job.gpu_seconds, job.train_s) == (0.0, 0.0, 0.0)


def test_states_are_stored_as_their_words(record):
    record.new()
    with record.database.session(Scope.everything) as session:
        words = session.execute(select(func.lower(Job.status), func.lower(Job.stage))).one()
    assert tuple(words) == (Status.PENDING.value, Stage.PREPARE.value)


def test_what_belongs_to_a_job_is_deleted_with_it(busy_record):
    with busy_record.transaction(Scope.everything) as session:
        session.execute(delete(Job).where(Job.id == "running"))
        for table in (Attempt, Event, MetricPoint):
            assert session.scalar(select(func.count()).where(table.job_id == "running")) == 0
