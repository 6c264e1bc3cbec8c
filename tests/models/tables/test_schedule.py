"""A schedule's runs stand once, go with it, and outlive their jobs."""

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from celora.models.scope.scope import Scope
from celora.models.tables import Job, Schedule, ScheduleRun


def test_a_run_stands_once(busy_record):
    with busy_record.session(Scope.everything) as session:
        run = session.get_one(ScheduleRun, ("s", "k"))
    with pytest.raises(IntegrityError), busy_record.transaction(Scope.everything) as session:
        session.add(ScheduleRun(schedule_id="s", key="k", at=run.at, created_at=run.at, outcome="waiting"))


def test_runs_go_with_their_schedule(busy_record):
    with busy_record.transaction(Scope.everything) as session:
        session.execute(delete(Schedule))
        assert session.scalar(select(func.count()).select_from(ScheduleRun)) == 0


def test_a_run_outlives_its_job(busy_record):
    with busy_record.transaction(Scope.everything) as session:
        run = session.get_one(ScheduleRun, ("s", "k"))
        run.job_id = "waiting"
        session.flush()
        session.execute(delete(Job).where(Job.id == "waiting"))
        session.refresh(run)
        assert (run.outcome, run.job_id) == ("submitted", None)


def test_the_table_of_runs_keeps_its_name():
    assert ScheduleRun.__tablename__ == "slot"
