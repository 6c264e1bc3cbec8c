"""A round delivers what is due, once, and tries again what failed; a sender that dies leaves it to the next."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hook_server import listening
from records import SPEC, Verbs
from sqlalchemy import select

from celora.models.database import now
from celora.models.notifications.notices import Notice
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Delivery
from celora.services.notifications import endpoints
from celora.services.rounds import notifications
from celora.services.rounds.notifications import send_notifications
from celora.settings.settings import get_settings

ENDS = [Notice.DONE, Notice.FAILED, Notice.CANCELLED]


@pytest.fixture
def hooks():
    with listening() as server:
        yield server


@pytest.fixture
def settings(record, hooks, monkeypatch):
    monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", f'["{hooks.host}"]')
    get_settings.cache_clear()
    return get_settings()


def cancel(record, *job_ids):
    for job_id in job_ids:
        Verbs(record).submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": "team-a"}))
        Verbs(record).request_cancel(job_id)


def outcomes(record):
    with record.session(Scope.everything) as session:
        rows = session.execute(select(Delivery.subject, Delivery.outcome).order_by(Delivery.id))
        return [tuple(row) for row in rows]


def make_due(record):
    with record.transaction(Scope.everything) as session:
        for row in session.scalars(select(Delivery).where(Delivery.next_at.is_not(None))):
            row.next_at, row.claimed_until = now(session) - timedelta(seconds=1), None


def test_each_notice_is_delivered_once(record, hooks, settings):
    endpoints.create("team-a", settings, name="ci", url=f"{hooks.url}/200", notices=ENDS)
    cancel(record, "a", "b", "c")
    assert send_notifications(record, settings) == 3
    assert send_notifications(record, settings) == 0
    assert outcomes(record) == [("a", "delivered"), ("b", "delivered"), ("c", "delivered")]
    assert [b"cancelled" in body for _, _, body in hooks.got] == [True] * 3


def test_rounds_side_by_side_deliver_each_notice_once(record, hooks, settings):
    endpoints.create("team-a", settings, name="ci", url=f"{hooks.url}/200", notices=ENDS)
    endpoints.create("team-a", settings, name="cd", url=f"{hooks.url}/200", notices=ENDS)
    cancel(record, "a", "b", "c")
    with ThreadPoolExecutor(3) as rounds:
        assert sum(rounds.map(lambda _: send_notifications(record, settings), range(3))) == 6
    assert {outcome for _, outcome in outcomes(record)} == {"delivered"}
    assert len(hooks.got) == 6


def test_a_refused_delivery_is_tried_again_under_the_same_id(record, hooks, settings):
    endpoints.create("team-a", settings, name="ci", url=f"{hooks.url}/200", notices=ENDS)
    cancel(record, "a")
    hooks.status = 500
    assert send_notifications(record, settings) == 1
    assert send_notifications(record, settings) == 0
    hooks.status = None
    make_due(record)
    assert send_notifications(record, settings) == 1
    assert outcomes(record) == [("a", "delivered")]
    assert len({headers["webhook-id"] for _, headers, _ in hooks.got}) == 1


def test_what_a_dead_sender_claimed_is_sent_by_the_next(record, hooks, settings, monkeypatch):
    endpoints.create("team-a", settings, name="ci", url=f"{hooks.url}/200", notices=ENDS)
    cancel(record, "a")

    class KilledError(Exception):
        pass

    def killed(point):
        if point == "notify.sent":
            raise KilledError

    monkeypatch.setattr(notifications, "hit", killed)
    with pytest.raises(KilledError):
        send_notifications(record, settings)
    monkeypatch.undo()
    assert send_notifications(record, settings) == 0, "its claim still lives"
    make_due(record)
    assert send_notifications(record, settings) == 1
    assert outcomes(record) == [("a", "delivered")]
    assert len(hooks.got) == 2


def test_one_that_cannot_be_reached_stops_no_other(record, hooks, settings):
    endpoints.create("team-a", settings, name="bad", url="https://nobody.invalid/", notices=ENDS)
    endpoints.create("team-a", settings, name="ci", url=f"{hooks.url}/200", notices=ENDS)
    cancel(record, "a")
    assert send_notifications(record, settings) == 2
    assert sorted(str(outcome) for _, outcome in outcomes(record)) == ["None", "delivered"]
