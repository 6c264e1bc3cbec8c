"""What the record forgets by itself: times of schedules long past, and workers long gone. (Jobs: tests/tasks.)"""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from celora.models import registry, retention, transitions
from celora.models.database import now
from celora.models.schedule_tables import Schedule, Slot
from celora.models.spec import parse_spec
from celora.models.tables import Tenant, Worker

SPEC = {"base_model": "b", "dataset": "/d.jsonl"}


@pytest.fixture
def schedule(database):
    """Adds a schedule with twelve slots, a minute apart; the fourth waits, the fifth's job has not ended."""

    def schedule(name):
        with database.transaction() as session:
            at = now(session) - timedelta(hours=1)
            if session.get(Tenant, "default") is None:
                session.add(Tenant(name="default", created_at=at))
            session.flush()
            session.add(
                Schedule(
                    id=name, tenant="default", name=name, every_s=60, spec=SPEC, missed="skip", overlap="queue",
                    created_at=at, updated_at=at, last_slot=at,
                )
            )  # fmt: skip
            session.flush()
            transitions.submit(session, job_id=f"{name}-job", spec=parse_spec(SPEC))
            for number in range(12):
                outcome = {3: "waiting", 4: "submitted"}.get(number, "skipped")
                session.add(
                    Slot(
                        schedule_id=name, key=f"{number:02}", at=at + timedelta(minutes=number), created_at=at,
                        outcome=outcome, job_id=f"{name}-job" if number == 4 else None,
                    )
                )  # fmt: skip

    return schedule


def keys(database, schedule_id):
    with database.session() as session:
        return list(session.scalars(select(Slot.key).where(Slot.schedule_id == schedule_id).order_by(Slot.key)))


def forgotten(database, **options):
    with database.transaction() as session:
        return retention.forget_slots(session, **options)


def test_of_each_schedule_the_newest_slots_stay_and_whatever_is_not_done(database, schedule):
    schedule("one")
    schedule("other")
    assert forgotten(database) == 0
    assert forgotten(database, keep=5) == 10
    assert keys(database, "one") == keys(database, "other") == ["03", "04", "07", "08", "09", "10", "11"]
    assert forgotten(database, keep=5) == 0


def test_a_slot_goes_when_its_job_has_ended(database, schedule):
    schedule("one")
    with database.transaction() as session:
        transitions.request_cancel(session, "one-job")
    assert forgotten(database, keep=5) == 6
    assert keys(database, "one") == ["03", "07", "08", "09", "10", "11"]


@pytest.fixture
def workers(database):
    with database.transaction() as session:
        for name in ("gone", "cordoned", "sick", "lately", "online"):
            registry.register(session, name, host="h", kind="gpu", pid=1, status="online")
        registry.cordon(session, "cordoned")
        session.execute(update(Worker).where(Worker.id == "sick").values(health="unhealthy"))
        for name in ("gone", "cordoned", "sick", "lately"):
            registry.gone(session, name)
        long_ago = now(session) - timedelta(days=8)
        session.execute(update(Worker).where(Worker.id != "lately").values(last_seen_at=long_ago))
    return database


def test_a_worker_that_is_long_gone_is_forgotten_unless_it_must_not_be_trusted(workers):
    with workers.transaction() as session:
        assert retention.forget_workers(session, now(session) - timedelta(days=7)) == 1
    with workers.session() as session:
        assert set(session.scalars(select(Worker.id))) == {"cordoned", "sick", "lately", "online"}
