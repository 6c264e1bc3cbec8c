"""The rows of a tenant, found in every limited table and deleted in an order that the database accepts."""

import pytest
from sqlalchemy import select
from two_tenants import LIMITED, OURS, THEIRS, owner_of, rows_of

from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Job
from celora.models.tenants import deletion


@pytest.fixture
def session(database):
    """An open session; two tenants have a row of each table."""
    with database.transaction(Scope.everything) as session:
        for tenant in (OURS, THEIRS):
            for row in rows_of(tenant):
                session.merge(row)
                session.flush()
        yield session


def owners(session):
    """The tenants that have a row, by table."""
    return {table.__name__: {owner_of(row) for row in session.scalars(select(table))} for table in LIMITED}


def test_a_row_of_each_table_is_counted(session):
    tables = {table.__tablename__ for table in LIMITED} - {"audit"}
    assert deletion.count_rows(session, OURS) == dict.fromkeys(tables, 1)
    assert deletion.count_rows(session, "nobody") == {}


def test_every_row_of_the_tenant_goes_but_the_audits(session):
    deletion.delete_rows(session, OURS)
    session.expire_all()
    assert owners(session) == {table.__name__: {THEIRS} for table in LIMITED} | {"AuditEntry": {OURS, THEIRS}}


def test_unfinished_jobs_and_contents_are_the_tenants_own(session):
    assert deletion.unfinished_jobs(session, OURS) == []
    session.get_one(Job, f"job-{OURS}").status = Status.PENDING
    session.flush()
    assert (deletion.unfinished_jobs(session, OURS), deletion.unfinished_jobs(session, THEIRS)) == ([f"job-{OURS}"], [])
    assert deletion.job_ids(session, OURS) == [f"job-{OURS}"]
    assert deletion.contents(session, OURS) == ["d"]
    assert deletion.is_needed_by_others(session, OURS, "d")
    deletion.delete_rows(session, THEIRS)
    assert not deletion.is_needed_by_others(session, OURS, "d")
    assert deletion.lock_tenant(session, OURS).name == OURS
    assert deletion.lock_tenant(session, THEIRS) is None
