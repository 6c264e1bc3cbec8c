"""Schedules in a record, and a clock that moves."""

from datetime import timedelta

import pytest
from recurring import version
from sqlalchemy import select, update

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Job
from celora.models.tables.schedule import Schedule
from celora.services import schedules
from celora.services.rounds import due_schedules
from celora.settings.settings import get_settings


@pytest.fixture
def record(database, home, monkeypatch):
    """An installation without workers or broker, on either database, with a version of a dataset ``faq``."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    for module in (schedules, due_schedules):
        monkeypatch.setattr(module, "request_tick", lambda: None)
    version(database, "a")
    return get_database()


@pytest.fixture
def look(record):
    """One round of the task, as a control worker would run it; how many jobs it submitted."""
    return lambda: due_schedules.run_due_schedules(record, get_settings())


@pytest.fixture
def pass_time(record):
    """Moves every schedule's clock so many seconds into the past."""

    def moved(seconds):
        back = timedelta(seconds=seconds)
        with record.transaction(Scope.everything) as session:
            for schedule in session.scalars(select(Schedule)):
                for name in ("created_at", "last_slot", "next_slot"):
                    before = getattr(schedule, name)
                    setattr(schedule, name, before - back if before else None)

    return moved


@pytest.fixture
def patient(monkeypatch):
    """No run is ever late."""
    monkeypatch.setenv("CELORA_LATE_S", "1e9")
    get_settings.cache_clear()


@pytest.fixture
def end(record):
    """Ends every job that is not over, as if it had been trained."""

    def ended():
        with record.transaction(Scope.everything) as session:
            session.execute(update(Job).where(Job.status != Status.FAILED).values(status=Status.COMPLETED))

    return ended
