"""The task of the schedules: it submits the job of a schedule that is due."""

from datetime import timedelta

from sqlalchemy import select

from celora.models.database import get_database
from celora.models.datasets import register
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.models.tables.schedule import Schedule
from celora.services import schedules
from celora.settings.settings import get_settings
from celora.tasks.run_schedules import run_schedules


def test_a_schedule_that_is_due_gets_its_job(home):
    database = get_database()
    database.migrate()
    uri = f"{get_settings().artifacts}/datasets/a/data.jsonl"
    with database.transaction(Scope.everything) as session:
        register(session, tenant="default", name="faq", sha256="a" * 64, uri=uri, size_bytes=1)
    schedules.add("s", {"base_model": "smollm2-135m-instruct", "dataset": "faq"}, every="1h")
    with database.transaction(Scope.everything) as session:
        schedule = session.scalars(select(Schedule)).one()
        for name in ("created_at", "last_slot", "next_slot"):
            setattr(schedule, name, getattr(schedule, name) - timedelta(seconds=3601))
    run_schedules()
    with database.session(Scope.everything) as session:
        job = session.scalars(select(Job)).one()
        assert job.id.startswith("s-20")
