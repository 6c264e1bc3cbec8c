"""The table of checks: an open check has neither a result nor a claim, and each check has a tenant."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from celora.models.scope.scope import Scope
from celora.models.tables import DataCheck, Tenant

AT = datetime(2026, 11, 30, tzinfo=UTC)


def check():
    return DataCheck(id="check-1", tenant="acme", spec={}, file_names={}, created_at=AT, sent_at=AT, expires_at=AT)


def test_a_new_check_is_open(database):
    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=AT))
        session.flush()
        session.add(check())
    with database.session(Scope.everything) as session:
        row = session.get_one(DataCheck, "check-1")
        assert (row.result, row.claimed_until, row.tries) == (None, None, 0)


def test_a_check_of_no_tenant_is_refused(database):
    with pytest.raises(IntegrityError), database.transaction(Scope.everything) as session:
        session.add(check())
