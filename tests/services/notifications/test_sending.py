"""Deliveries side by side: in order of their results, within a deadline, and no fault of one reaches another."""

import threading

import pytest
from two_tenants import AT

from celora.models.notifications.deliveries import Try
from celora.models.notifications.notices import Notice
from celora.models.scope.scope import Scope
from celora.models.tables import Delivery, Receiver
from celora.services.notifications.sending import carry_out, prepare, prepare_test
from celora.services.notifications.signing import new_secret
from celora.settings.sealing import seal
from celora.settings.settings import load_settings


def test_results_come_in_order_and_one_that_hangs_delays_nobody():
    ended = threading.Event()

    def hangs():
        ended.wait(60)
        return Try(status=200)

    def breaks():
        raise ZeroDivisionError

    try:
        first, second, third = carry_out([hangs, lambda: Try(status=204), breaks], within_s=1.0)
    finally:
        ended.set()
    assert (first.status, first.fault) == (None, "it did not answer within 1 s")
    assert (second.status, second.fault) == (204, "")
    assert third.fault == "it failed (ZeroDivisionError)"
    assert carry_out([]) == []


@pytest.fixture
def settings(record, hooks):
    return load_settings(webhook_hosts=[hooks.host])


def receiver(hooks, sealed, path="/200"):
    return Receiver(id="r1", tenant="team-a", kind="webhook", url=f"{hooks.url}{path}", notices=["done"], sealed=sealed)


def test_a_delivery_is_posted_with_its_event(record, hooks, settings):
    delivery = Delivery(event_id="evt_1", notice="done", subject="ftjob-1", created_at=AT, facts={})
    with record.session(Scope.everything) as session:
        act = prepare(session, delivery, receiver(hooks, seal(new_secret(), settings)), settings)
    assert carry_out([act])[0].status == 200
    ((_, headers, body),) = hooks.got
    assert headers["webhook-id"] == "evt_1"
    assert b'"ftjob-1"' in body


def test_a_secret_of_another_key_is_a_failed_try_and_no_lost_round(record, hooks, settings):
    delivery = Delivery(event_id="evt_1", notice="done", subject="ftjob-1", created_at=AT, facts={})
    with record.session(Scope.everything) as session:
        act = prepare(session, delivery, receiver(hooks, "gAAAA-no-secret"), settings)
    result = carry_out([act])[0]
    assert "another key" in result.fault
    assert "CELORA" not in result.fault
    assert hooks.got == []


@pytest.mark.parametrize("notice", ["of-a-newer-version", "champion"])
def test_a_kind_that_has_no_event_is_a_failed_try_and_no_lost_round(record, hooks, settings, notice):
    delivery = Delivery(event_id="evt_1", notice=notice, subject="bot", created_at=AT, facts={})
    with record.session(Scope.everything) as session:
        act = prepare(session, delivery, receiver(hooks, seal(new_secret(), settings)), settings)
    assert "does not know its kind" in carry_out([act])[0].fault
    assert hooks.got == []


def test_a_sample_is_an_event_of_the_type_that_was_asked_for(record, hooks, settings):
    with record.session(Scope.everything) as session:
        act = prepare_test(session, receiver(hooks, seal(new_secret(), settings)), Notice.FAILED, settings)
    assert carry_out([act])[0].status == 200
    assert b"fine_tuning.job.failed" in hooks.got[0][2]
