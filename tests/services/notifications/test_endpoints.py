"""Webhook endpoints: a tenant's own, with a secret that is told once and a change that switches them on again."""

import pytest
from sqlalchemy import select

from celora.errors import RequestError
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import MOST_RECEIVERS, find_receiver
from celora.models.scope.scope import Scope
from celora.models.tables import AuditEntry, Receiver
from celora.services.notifications import endpoints
from celora.settings.settings import load_settings

URL = "https://hooks.example.org/celora"


@pytest.fixture
def settings(record):
    return load_settings()


def make(settings, tenant="team-a", **more):
    given = {"name": "ci", "url": URL, "notices": [Notice.DONE], **more}
    return endpoints.create(tenant, settings, **given)


def test_an_endpoint_is_its_tenants_alone(settings):
    made, _ = make(settings)
    assert endpoints.find("team-a", made.id) == made
    calls = [
        lambda: endpoints.find("team-b", made.id),
        lambda: endpoints.update("team-b", made.id, settings, name="x"),
        lambda: endpoints.delete("team-b", made.id),
        lambda: endpoints.rotate("team-b", made.id, settings, keep_old=False),
        lambda: endpoints.test("team-b", made.id, Notice.DONE, settings),
        lambda: endpoints.find("team-a", "ci"),
    ]
    for call in calls:
        with pytest.raises(RequestError) as caught:
            call()
        assert (caught.value.status, caught.value.reason) == (404, "webhook_endpoint_not_found")
    assert endpoints.page("team-b", after=None, limit=9) == ([], False)


def test_the_record_and_the_audit_hold_no_secret(record, settings):
    made, secret = make(settings)
    _, rotated = endpoints.rotate("team-a", made.id, settings, keep_old=True)
    with record.session(Scope.everything) as session:
        rows = [*session.scalars(select(Receiver)), *session.scalars(select(AuditEntry))]
        text = " ".join(str(vars(row)) for row in rows)
    assert secret.removeprefix("whsec_") not in text
    assert rotated.removeprefix("whsec_") not in text
    assert endpoints.find("team-a", made.id).hint == rotated[-4:]


def test_a_change_switches_an_endpoint_on_again_and_none_changes_nothing(record, settings):
    made, _ = make(settings)
    assert endpoints.update("team-a", made.id, settings, name="ci") == made
    with record.transaction(Scope.everything) as session:
        row = find_receiver(session, "team-a", made.id)
        row.off_at, row.off_reason = row.created_at, "it failed"
    assert endpoints.find("team-a", made.id).off_reason == "it failed"
    changed = endpoints.update("team-a", made.id, settings, url=f"{URL}/2", notices=[Notice.FAILED])
    assert (changed.url, changed.notices, changed.off_at, changed.off_reason) == (
        f"{URL}/2",
        [Notice.FAILED],
        None,
        None,
    )
    with pytest.raises(RequestError, match="no public address"):
        endpoints.update("team-a", made.id, settings, url="https://10.0.0.1/")


def test_pages_go_on_after_an_endpoint_and_there_is_an_end(settings):
    ids = [make(settings)[0].id for _ in range(MOST_RECEIVERS)]
    with pytest.raises(RequestError) as caught:
        make(settings)
    assert caught.value.reason == "too_many_endpoints"
    first, more = endpoints.page("team-a", after=None, limit=15)
    rest, none = endpoints.page("team-a", after=first[-1].id, limit=15)
    assert (more, none, sorted(view.id for view in first + rest)) == (True, False, sorted(ids))
    with pytest.raises(RequestError) as caught:
        endpoints.page("team-a", after="whep_nobodys", limit=1)
    assert caught.value.reason == "invalid_cursor"


def test_a_deleted_endpoint_is_gone_with_its_deliveries(settings):
    made, _ = make(settings)
    assert endpoints.delete("team-a", made.id) == made.id
    with pytest.raises(RequestError):
        endpoints.find("team-a", made.id)


def test_a_test_tells_the_status_of_the_answer_or_why_there_is_none(record, hooks):
    settings = load_settings(webhook_hosts=[hooks.host])
    made, _ = make(settings, url=f"{hooks.url}/503")
    assert endpoints.test("team-a", made.id, Notice.DONE, settings) == 503
    closed = load_settings(webhook_hosts=[])
    with pytest.raises(RequestError) as caught:
        endpoints.test("team-a", made.id, Notice.DONE, closed)
    assert caught.value.reason == "endpoint_unreachable"


def test_no_more_than_some_tests_run_at_once(record, hooks, monkeypatch):
    settings = load_settings(webhook_hosts=[hooks.host])
    made, _ = make(settings, url=f"{hooks.url}/200")
    taken = [endpoints._tests.acquire(blocking=False) for _ in range(endpoints.TESTS_AT_ONCE)]
    try:
        with pytest.raises(RequestError) as caught:
            endpoints.test("team-a", made.id, Notice.DONE, settings)
    finally:
        for _ in taken:
            endpoints._tests.release()
    assert (caught.value.status, all(taken)) == (429, True)
    assert endpoints.test("team-a", made.id, Notice.DONE, settings) == 200
