"""Deliveries: claimed once, in order for each job, tried for a day, and receivers that fail for days switched off."""

from datetime import timedelta

import pytest
from records import SPEC, Verbs
from sqlalchemy import select

from celora.errors import NotFoundError, SettingsError
from celora.models.database import now
from celora.models.notifications import deliveries
from celora.models.notifications.deliveries import Try, claim_due, record_try
from celora.models.notifications.notices import Notice, queue_notice
from celora.models.notifications.receivers import NewReceiver, add_receiver
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import AuditEntry, Delivery, Job, Receiver


@pytest.fixture
def receivers(database):
    with database.transaction(Scope.everything) as session:
        for number in (1, 2):
            facts = {"kind": "webhook", "name": "ci", "url": "u", "sealed": "s", "notices": list(Notice)}
            add_receiver(session, "acme", NewReceiver(id=f"r{number}", **facts))


@pytest.fixture
def session(database, receivers):
    with database.transaction(Scope.everything) as session:
        yield session


def add(session, *subjects):
    for subject in subjects:
        queue_notice(session, Notice.DONE, "acme", subject)


def claimed(session, most=9, for_s=20.0):
    found = claim_due(session, most=most, for_s=for_s)
    return sorted((delivery.receiver_id, delivery.subject) for delivery, _ in found)


def free(session):
    """End every claim, as time does."""
    for row in session.scalars(select(Delivery)):
        session.refresh(row)
        row.claimed_until = None
    session.flush()


def open_of(session, receiver_id):
    rows = select(Delivery).where(Delivery.receiver_id == receiver_id).order_by(Delivery.id)
    return list(session.scalars(rows.execution_options(populate_existing=True)))


def test_a_round_claims_one_for_each_receiver_and_the_next_round_nothing_while_a_claim_lives(session):
    add(session, "a", "b")
    assert claimed(session) == [("r1", "a"), ("r2", "a")]
    assert claimed(session) == []
    free(session)
    assert claimed(session, most=1) == [("r1", "a")]


def test_a_delivery_waits_for_the_one_before_it_about_the_same_job(session):
    add(session, "a", "a", "b")
    first, second, other = open_of(session, "r1")
    record_try(session, first.id, Try(status=500, fault="it answered 500"))
    assert first.next_at - now(session) <= timedelta(seconds=30)
    assert claimed(session) == [("r1", "b"), ("r2", "a")]
    free(session)
    record_try(session, other.id, Try(status=200))
    assert ("r1", "a") not in claimed(session)
    free(session)
    record_try(session, first.id, Try(status=204))
    assert (first.outcome, second.outcome) == ("delivered", None)
    assert ("r1", "a") in claimed(session)


def test_tenants_take_turns_and_receivers_that_fail_come_last(session):
    facts = {"kind": "webhook", "name": "ci", "url": "u", "sealed": "s", "notices": [Notice.DONE]}
    for number in (3, 4, 5):
        add_receiver(session, "acme", NewReceiver(id=f"r{number}", **facts))
    add_receiver(session, "other", NewReceiver(id="theirs", **facts))
    add(session, *"abc")
    session.get_one(Receiver, "r1").failing_since = now(session)
    queue_notice(session, Notice.DONE, "other", "their-job")
    found = [receiver.id for _, receiver in claim_due(session, most=5, for_s=20)]
    assert found[:2] in (["r2", "theirs"], ["theirs", "r2"])
    assert found[2:] == ["r3", "r4", "r5"]


def test_the_first_tries_come_soon_and_all_of_them_within_a_day(session):
    add(session, "a")
    row, pauses = open_of(session, "r1")[0], []
    while row.next_at is not None:
        record_try(session, row.id, Try(fault="it cannot be reached"))
        if row.next_at is not None:
            pauses.append((row.next_at - now(session)).total_seconds())
            row.since -= row.next_at - now(session)  # the pause passes
    assert pauses[0] < 30
    assert pauses[1] < 300
    assert sum(pauses) < 24 * 3600 <= sum(pauses) + max(pauses)
    assert (row.outcome, row.attempts) == ("given_up", len(pauses) + 1)
    assert [line["fault"] for line in row.tries] == ["it cannot be reached"] * len(pauses) + ["it cannot be reached"]


def test_a_receiver_that_fails_for_days_is_switched_off_and_the_others_are_told(session):
    add(session, "a", "b")
    first, second = open_of(session, "r1")
    record_try(session, first.id, Try(fault="away"))
    receiver = session.get_one(Receiver, "r1")
    assert (receiver.off_at, receiver.failing_since is not None) == (None, True)
    receiver.failing_since -= timedelta(days=3)
    record_try(session, first.id, Try(fault="away"))
    assert "it failed since" in receiver.off_reason
    assert [row.outcome for row in open_of(session, "r1")] == ["off", "off"]
    told = open_of(session, "r2")[-1]
    assert (told.notice, told.facts["reason"]) == ("off", receiver.off_reason)
    assert session.scalars(select(AuditEntry.action)).all() == ["receiver.off"]
    with pytest.raises(SettingsError, match="switched off"):
        deliveries.redeliver(session, "acme", second.id)


def test_a_success_ends_the_days_of_failures_and_gone_switches_off_at_once(session):
    add(session, "a", "b")
    first, second = open_of(session, "r1")
    record_try(session, first.id, Try(fault="away"))
    record_try(session, second.id, Try(status=200))
    receiver = session.get_one(Receiver, "r1")
    assert receiver.failing_since is None
    record_try(session, first.id, Try(status=410, fault="it answered 410"))
    assert receiver.off_reason == "it answered 410 Gone"


def test_an_ended_delivery_is_made_again_on_request(session):
    add(session, "a")
    row = open_of(session, "r1")[0]
    record_try(session, row.id, Try(status=200))
    assert deliveries.redeliver(session, "acme", row.id).outcome is None
    assert ("r1", "a") in claimed(session)
    assert len(row.tries) == 1
    for tenant in ("other", "acme"):
        with pytest.raises(NotFoundError):
            deliveries.redeliver(session, tenant, row.id if tenant == "other" else 10**6)


def test_a_try_of_a_delivery_that_was_deleted_is_no_fault(session):
    record_try(session, 10**6, Try(status=200))


def test_the_log_forgets_what_ended_long_ago_and_nothing_open(session):
    add(session, "a")
    record_try(session, open_of(session, "r1")[0].id, Try(status=200))
    assert deliveries.forget_deliveries(session, now(session) + timedelta(days=1)) == 1
    assert [delivery.receiver_id for delivery, _ in deliveries.list_deliveries(session, tenant="acme")] == ["r2"]
    assert deliveries.list_deliveries(session, tenant="other") == []


def test_a_job_that_waits_for_long_is_told_once(receivers, database):
    for job_id, tenant in (
        ("old", "acme"),
        ("new", "acme"),
        ("trained", "acme"),
        ("again", "acme"),
        ("theirs", "other"),
    ):
        Verbs(database).submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": tenant}))
    with database.transaction(Scope.everything) as later:
        later.get_one(Receiver, "r1").waiting_s = 600
        for job_id in ("old", "trained", "again", "theirs"):
            later.get_one(Job, job_id).created_at -= timedelta(hours=1)
        later.get_one(Job, "old").started_at = now(later)  # its data is prepared, and it waits for a device
        later.get_one(Job, "old").stage = Stage.TRAIN
        for job_id in ("trained", "again"):
            later.get_one(Job, job_id).resolved = {"rank": 4}
        later.get_one(Job, "trained").started_at = now(later)  # its worker was lost in the middle
        assert [deliveries.queue_waiting(later), deliveries.queue_waiting(later)] == [2, 0]
        told = sorted((row.notice, row.job_id) for row in open_of(later, "r1"))
        assert told == [("waiting", "again"), ("waiting", "old")], "the retry of a job takes over what its run resolved"
