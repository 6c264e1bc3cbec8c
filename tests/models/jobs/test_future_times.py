"""Times that a clock wrote which was ahead: what nobody renews is corrected, and a correct record stays as it is."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from celora.models import workers
from celora.models.database import now
from celora.models.jobs import outbox
from celora.models.jobs.future_times import correct_future_times
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Announcement, Job, Worker

DAY = timedelta(days=1)
LEASE_S = 90
FACTS = {"kind": "prep", "queues": ["prep"], "pid": 1, "host": "here"}


def corrected(record):
    with record.database.transaction(Scope.everything) as session:
        return correct_future_times(session, now(session), lease_s=LEASE_S)


def ahead(record, table, *columns):
    """Write columns as a clock would that is a day ahead."""
    with record.database.transaction(Scope.everything) as session:
        for row in session.scalars(select(table)):
            values = {name: (getattr(row, name) or now(session)) + DAY for name in columns}
            session.execute(update(table).values(**values))


def seconds_from_now(record, table, column):
    with record.database.session(Scope.everything) as session:
        row = session.scalars(select(table)).one()
        return (getattr(row, column) - now(session)).total_seconds()


def test_a_record_with_a_correct_clock_is_not_changed(record):
    record.bring(Status.RUNNING)
    with record.database.transaction(Scope.everything) as session:
        workers.register(session, "prep@here", **FACTS)
    assert corrected(record) == 0


def test_a_lease_a_day_ahead_runs_out_within_one_lease(record):
    record.bring(Status.RUNNING)
    ahead(record, Job, "lease_until")
    assert corrected(record) == 1
    assert seconds_from_now(record, Job, "lease_until") == pytest.approx(LEASE_S, abs=20)


def test_a_message_that_was_sent_tomorrow_can_be_late_today(record):
    record.bring(Status.QUEUED)
    ahead(record, Job, "sent_at")
    assert corrected(record) == 1
    assert seconds_from_now(record, Job, "sent_at") <= 0


def test_a_retry_waits_no_day_and_one_of_a_correct_clock_keeps_its_wait(record):
    record.bring(Status.PENDING, Stage.TRAIN)
    ahead(record, Job, "not_before")
    assert corrected(record) == 0
    ahead(record, Job, "updated_at")
    assert corrected(record) == 1
    assert record.job().not_before is None


def test_an_announcement_is_claimed_no_longer_than_a_lease(record):
    record.new()
    with record.database.transaction(Scope.everything) as session:
        outbox.queue_announcement(session, "job")
        assert outbox.claim_announcement(session, "job", 30)
    ahead(record, Announcement, "claimed_until")
    assert corrected(record) == 1
    assert seconds_from_now(record, Announcement, "claimed_until") <= LEASE_S


def test_a_dead_worker_does_not_look_alive_until_the_clock_has_caught_up(record):
    with record.database.transaction(Scope.everything) as session:
        workers.register(session, "prep@here", **FACTS)
    ahead(record, Worker, "last_seen_at")
    assert corrected(record) == 1
    assert seconds_from_now(record, Worker, "last_seen_at") <= 0
