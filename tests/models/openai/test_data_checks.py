"""Rows of checks: one worker at a time, lost messages and dead workers, expiry, on both databases."""

from datetime import timedelta

import pytest

from celora.errors import RequestError
from celora.models.database import now
from celora.models.openai import data_checks
from celora.models.scope.scope import Scope
from celora.models.tables import DataCheck, Tenant

RESEND_S = 600.0


@pytest.fixture
def session(database):
    with database.transaction(Scope.everything) as session:
        session.add_all(Tenant(name=name, created_at=now(session)) for name in ("acme", "other"))
        session.flush()
        yield session


def add(session, check_id="check-1", tenant="acme"):
    return data_checks.add_check(session, check_id=check_id, tenant=tenant, spec={"rank": 4}, file_names={"train": "a"})


def test_a_check_is_found_by_its_tenant_until_it_expires(session):
    row = add(session)
    assert data_checks.find_check(session, "acme", "check-1") is row
    for tenant, check_id in (("other", "check-1"), ("acme", "check-2")):
        with pytest.raises(RequestError) as caught:
            data_checks.find_check(session, tenant, check_id)
        assert (caught.value.status, caught.value.reason) == (404, "check_not_found")
    row.expires_at = now(session)
    session.flush()
    with pytest.raises(RequestError, match="kept for an hour"):
        data_checks.find_check(session, "acme", "check-1")
    assert data_checks.forget_checks(session) == 1
    assert session.get(DataCheck, "check-1", populate_existing=True) is None


def test_only_open_checks_of_the_tenant_are_counted(session):
    add(session)
    add(session, "check-2")
    add(session, "check-x", tenant="other")
    assert data_checks.count_open(session, "acme") == 2
    data_checks.end_check(session, "check-1", {"receipt": {}})
    assert data_checks.count_open(session, "acme") == 1


def test_one_worker_claims_a_check_and_another_one_only_after_its_claim(session):
    add(session)
    assert data_checks.claim_check(session, "check-1", 60).tries == 1
    assert data_checks.claim_check(session, "check-1", 60) is None
    row = session.get(DataCheck, "check-1")
    row.claimed_until = now(session) - timedelta(seconds=1)
    session.flush()
    assert data_checks.claim_check(session, "check-1", 60).tries == 2
    data_checks.end_check(session, "check-1", {"receipt": {"ok": True}})
    assert (row.result, row.claimed_until) == ({"receipt": {"ok": True}}, None)
    assert data_checks.claim_check(session, "check-1", 60) is None


def test_a_result_is_written_once_and_that_of_a_deleted_check_is_dropped(session):
    row = add(session)
    data_checks.end_check(session, "check-1", {"receipt": {"ok": True}})
    data_checks.end_check(session, "check-1", {"receipt": {"ok": False}})
    assert row.result == {"receipt": {"ok": True}}
    data_checks.end_check(session, "check-none", {"receipt": {"ok": True}})
    assert session.get(DataCheck, "check-none") is None


def test_a_renewed_claim_and_its_row_live_longer(session):
    row = add(session)
    data_checks.claim_check(session, "check-1", 60)
    row.claimed_until = row.expires_at = now(session)
    session.flush()
    data_checks.renew_claim(session, "check-1", 60)
    session.refresh(row)
    assert row.claimed_until > now(session) + timedelta(seconds=50)
    assert row.expires_at > row.claimed_until


def test_a_lost_message_and_a_dead_worker_are_noticed_once(session):
    late, lapsed, running = (add(session, f"check-{name}") for name in ("late", "lapsed", "running"))
    add(session, "check-new")
    late.sent_at -= timedelta(seconds=RESEND_S + 1)
    for row, seconds in ((lapsed, -1), (running, 60)):
        row.claimed_until = now(session) + timedelta(seconds=seconds)
    session.flush()
    assert set(data_checks.list_unsent(session, RESEND_S)) == {"check-late", "check-lapsed"}
    assert data_checks.list_unsent(session, RESEND_S) == []
    assert data_checks.claim_check(session, "check-lapsed", 60) is not None
