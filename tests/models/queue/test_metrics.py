"""Figures of the queue: quantiles of the waiting times, shares used and due."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from celora.models.database import now
from celora.models.queue import metrics
from celora.models.scope.scope import Scope
from celora.models.tables import Job, Tenant, TenantUse


def test_ages_are_those_of_jobs_by_tenant_and_type(record):
    for minutes in range(1, 11):
        record.new(f"job-{minutes}", tenant="acme", gpu="h100")
    record.new("alone", tenant="rival")
    record.new("paused", tenant="rival")
    record.request_pause("paused")
    with record.database.transaction(Scope.everything) as session:
        at = now(session)
        for minutes in range(1, 11):
            moved = update(Job).where(Job.id == f"job-{minutes}").values(created_at=at - timedelta(minutes=minutes))
            session.execute(moved)
    with record.database.session(Scope.everything) as session:
        found = metrics.waiting_ages(session)
    assert set(found) == {("acme", "h100"), ("rival", "auto")}
    minutes = {quantile: int(seconds // 60) for quantile, seconds in found["acme", "h100"].items()}
    assert minutes == {0.5: 6, 0.95: 10}
    assert found["rival", "auto"][0.5] == found["rival", "auto"][0.95] >= 0


def test_shares_are_parts_of_the_decayed_use_and_of_the_weights(record):
    with record.database.transaction(Scope.everything) as session:
        at = now(session)
        for name, weight, used, hours, competes in (
            ("a", 1, 400, 1, True),
            ("b", 3, 200, 0, True),
            ("c", 9, 99, 0, False),
        ):
            session.add(Tenant(name=name, created_at=at, weight=weight))
            session.flush()
            back = timedelta(hours=hours)
            session.add(TenantUse(tenant=name, gpu_seconds=used, at=at - back, competes=competes))
    with record.database.session(Scope.everything) as session:
        found = metrics.shares(session, half_life_s=3600)
    assert {name: (share.used, share.due) for name, share in found.items()} == {
        "a": (pytest.approx(0.5, rel=0.01), 0.25), "b": (pytest.approx(0.5, rel=0.01), 0.75),
    }  # fmt: skip


def test_nobody_who_competes_has_no_shares(record):
    with record.database.session(Scope.everything) as session:
        assert metrics.shares(session, 3600) == {}
        assert metrics.waiting_ages(session) == {}
