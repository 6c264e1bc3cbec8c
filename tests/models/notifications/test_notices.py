"""Notices: written with their cause, for the receivers that ask for them, and for nobody else."""

import pytest
from records import SPEC, Verbs
from sqlalchemy import select

from celora.models.jobs import accept, transitions
from celora.models.jobs.limits import _pause
from celora.models.notifications.notices import Notice, queue_notice
from celora.models.notifications.receivers import NewReceiver, add_receiver, find_receiver
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Ruling, Stage
from celora.models.tables import Delivery, Job


@pytest.fixture
def receive(database):
    """Adds a receiver of some notices."""

    def add(receiver_id, *notices, tenant="acme", **more):
        facts = {"kind": "webhook", "name": receiver_id, "url": "https://hooks.example.org", "sealed": "s", **more}
        with database.transaction(Scope.everything) as session:
            add_receiver(session, tenant, NewReceiver(id=receiver_id, notices=notices, **facts))

    return add


@pytest.fixture
def queued(database):
    """The deliveries so far: receiver, notice, subject, in order."""

    def read():
        with database.session(Scope.everything) as session:
            columns = (Delivery.receiver_id, Delivery.notice, Delivery.subject)
            return [tuple(row) for row in session.execute(select(*columns).order_by(Delivery.id))]

    return read


def submit(database, job_id, tenant="acme"):
    Verbs(database).submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": tenant}))


def test_each_end_of_a_job_is_queued_for_whoever_asks_for_it(database, receive, queued):
    for job_id in ("a", "b", "c"):
        submit(database, job_id)
    receive("all", Notice.DONE, Notice.FAILED, Notice.CANCELLED)
    receive("failures", Notice.FAILED)
    receive("others", Notice.CANCELLED, tenant="other")
    receive("of-b", Notice.CANCELLED, job_id="b")
    verbs = Verbs(database)
    verbs.request_cancel("a")
    verbs.request_cancel("b")
    with database.transaction(Scope.everything) as session:
        transitions.send(session, "c", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "c", 1, Stage.PREPARE, worker_id="w", lease_s=90)
    verbs.fail(Claim("c", 1, "w"), {"code": "bad_data", "message": "line 2 is no JSON"})
    assert queued() == [("all", "cancelled", "a"), ("all", "cancelled", "b"), ("of-b", "cancelled", "b"),
                        ("all", "failed", "c"), ("failures", "failed", "c")]  # fmt: skip


def test_the_event_has_one_id_for_all_its_receivers(database, receive):
    submit(database, "a")
    receive("one", Notice.CANCELLED)
    receive("two", Notice.CANCELLED)
    Verbs(database).request_cancel("a")
    with database.session(Scope.everything) as session:
        assert len(set(session.scalars(select(Delivery.event_id)))) == 1


def test_a_job_that_is_refused_and_one_that_reaches_its_budget_are_queued(database, receive, queued):
    submit(database, "a")
    receive("all", Notice.FAILED, Notice.PAUSED)
    with database.transaction(Scope.everything) as session:
        error = {"code": "bad_settings", "message": "rank: 0"}
        accept.reject(session, "refused", {**SPEC, "tenant": "acme"}, error)
        accept.reject(session, "refused", {**SPEC, "tenant": "acme"}, error)
        _pause(session, session.get_one(Job, "a"), "budget", "its budget of 2 is used", {"budget": 2.0})
    assert queued() == [("all", "failed", "refused"), ("all", "paused", "a")]


def test_a_cause_that_is_rolled_back_takes_its_notice_with_it(database, receive, queued):
    submit(database, "a")
    receive("all", Notice.CANCELLED)
    with database.session(Scope.everything) as session:
        assert queue_notice(session, Notice.CANCELLED, "acme", "a", job_id="a") == 1
        session.rollback()
    assert queued() == []


def test_a_receiver_that_is_off_and_a_notice_that_nobody_asks_for_write_nothing(database, receive, queued):
    submit(database, "a")
    receive("off", Notice.CANCELLED)
    receive("champions", Notice.CHAMPION)
    with database.transaction(Scope.everything) as session:
        row = find_receiver(session, "acme", "off")
        row.off_at = row.created_at
    Verbs(database).request_cancel("a")
    assert queued() == []


def test_a_retry_of_a_failed_stage_is_no_end(database, receive, queued):
    submit(database, "a")
    receive("all", *Notice)
    with database.transaction(Scope.everything) as session:
        transitions.send(session, "a", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "a", 1, Stage.PREPARE, worker_id="w", lease_s=90)
    Verbs(database).try_again(Claim("a", 1, "w"), {"code": "storage", "message": "away"}, Ruling(again=True))
    assert queued() == []
