"""Tenants begin without limits, and the audit keeps its rows whatever is asked of it."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from celora.models.scope.scope import Scope
from celora.models.tables import AuditEntry, LedgerMonth, Tenant


def test_a_new_tenant_has_no_limit(database):
    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=database.now(session)))
        session.flush()
        tenant = session.get_one(Tenant, "acme", populate_existing=True)
        limits = (tenant.max_jobs, tenant.max_gpus, tenant.gpu_minutes, tenant.budget, tenant.storage_bytes)
    assert limits == (None,) * 5
    assert (tenant.max_priority, tenant.weight, tenant.over) == (100, 1.0, "wait")


def test_a_month_counts_beyond_32_bits(database):
    with database.transaction(Scope.everything) as session:
        at = database.now(session)
        session.add(Tenant(name="acme", created_at=at))
        session.flush()
        session.add(LedgerMonth(tenant="acme", month="2026-11", spent_micros=10**13, updated_at=at))
    with database.session(Scope.everything) as session:
        row = session.get_one(LedgerMonth, ("acme", "2026-11"))
        assert (row.spent_micros, row.spent_ms, row.held_ms, row.held_micros) == (10**13, 0, 0, 0)


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
def test_a_row_of_the_audit_is_neither_changed_nor_deleted(database, change):
    with database.transaction(Scope.everything) as session:
        session.add(AuditEntry(at=database.now(session), actor="ada", action="job.cancel", object="job", address=""))
    with pytest.raises(DatabaseError, match="only grows"), database.transaction(Scope.everything) as session:
        session.execute(text(change))
    with database.session(Scope.everything) as session:
        assert session.scalar(text("SELECT actor FROM audit")) == "ada"
