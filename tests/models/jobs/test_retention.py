"""What the record forgets by itself: times of schedules long past, and workers long gone. (Jobs: tests/tasks.)"""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from celora.models import workers as registry
from celora.models.database import now
from celora.models.jobs import accept, requests, retention
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Checkpoint, Tenant, Worker
from celora.models.tables.schedule import Schedule, ScheduleRun

SPEC = {"base_model": "b", "dataset": "/d.jsonl"}


@pytest.fixture
def schedule(database):
    """Adds a schedule with twelve slots, a minute apart; the fourth waits, the fifth's job has not ended."""

    def schedule(name):
        with database.transaction(Scope.everything) as session:
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
            accept.submit(session, job_id=f"{name}-job", spec=parse_spec(SPEC))
            for number in range(12):
                outcome = {3: "waiting", 4: "submitted"}.get(number, "skipped")
                session.add(
                    ScheduleRun(
                        schedule_id=name, key=f"{number:02}", at=at + timedelta(minutes=number), created_at=at,
                        outcome=outcome, job_id=f"{name}-job" if number == 4 else None,
                    )
                )  # fmt: skip

    return schedule


def keys(database, schedule_id):
    with database.session(Scope.everything) as session:
        return list(
            session.scalars(
                select(ScheduleRun.key).where(ScheduleRun.schedule_id == schedule_id).order_by(ScheduleRun.key)
            )
        )


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        ([None, None, None, None, None], [4, 5]),
        ([1, 2, 3, 4, 5], [3, 4, 5]),
        ([1, None, 2, None, None], [1, 3, 4, 5]),
        ([1, 2, 3, None, None], [1, 2, 3, 4, 5]),
    ],
)
def test_the_checkpoints_of_the_last_three_epochs_stay_beside_the_last_ones(database, epochs, kept):
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="one", spec=parse_spec(SPEC))
        for step, epoch in enumerate(epochs, 1):
            row = Checkpoint(job_id="one", attempt=1, step=step, uri=f"file:///{step}", size_bytes=1)
            row.manifest_sha256, row.created_at, row.epoch = "0" * 64, now(session), epoch
            session.add(row)
    with database.transaction(Scope.everything) as session:
        retention.supersede(session, "one", 2)
    with database.session(Scope.everything) as session:
        wanted = select(Checkpoint.step).where(Checkpoint.job_id == "one").order_by(Checkpoint.step)
        assert list(session.scalars(wanted)) == kept
        assert retention.with_many_checkpoints(session, 2) == []


def forgotten(database, **options):
    with database.transaction(Scope.everything) as session:
        return retention.forget_runs(session, **options)


def test_of_each_schedule_the_newest_slots_stay_and_whatever_is_not_done(database, schedule):
    schedule("one")
    schedule("other")
    assert forgotten(database) == 0
    assert forgotten(database, keep=5) == 10
    assert keys(database, "one") == keys(database, "other") == ["03", "04", "07", "08", "09", "10", "11"]
    assert forgotten(database, keep=5) == 0


def test_a_slot_goes_when_its_job_has_ended(database, schedule):
    schedule("one")
    with database.transaction(Scope.everything) as session:
        requests.request_cancel(session, "one-job")
    assert forgotten(database, keep=5) == 6
    assert keys(database, "one") == ["03", "07", "08", "09", "10", "11"]


@pytest.fixture
def workers(database):
    with database.transaction(Scope.everything) as session:
        for name in ("gone", "cordoned", "sick", "lately", "online"):
            own = ["gpu.cpu", f"gpu.cpu@={name}"] if name != "sick" else ["gpu.cpu@@sick"]
            registry.register(session, name, host="h", kind="gpu", pid=1, queues=own)
        registry.cordon(session, "cordoned")
        session.execute(update(Worker).where(Worker.id == "sick").values(health="unhealthy"))
        for name in ("gone", "cordoned", "sick", "lately"):
            registry.mark_offline(session, name)
        long_ago = now(session) - timedelta(days=8)
        session.execute(update(Worker).where(Worker.id != "lately").values(last_seen_at=long_ago))
    return database


def test_the_queues_of_workers_that_are_long_gone_are_listed_and_no_queue_that_others_read(workers):
    with workers.session(Scope.everything) as session:
        gone = retention.queues_of_gone_workers(session, now(session) - timedelta(days=7))
    assert gone == ["gpu.cpu@=cordoned", "gpu.cpu@=gone", "gpu.cpu@@sick"]


def test_a_worker_that_is_long_gone_is_forgotten_unless_it_must_not_be_trusted(workers):
    with workers.transaction(Scope.everything) as session:
        assert retention.forget_workers(session, now(session) - timedelta(days=7)) == 1
    with workers.session(Scope.everything) as session:
        assert set(session.scalars(select(Worker.id))) == {"cordoned", "sick", "lately", "online"}
