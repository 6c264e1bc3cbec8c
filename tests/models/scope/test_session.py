"""A session of one tenant reaches that tenant's rows alone, whatever the statement."""

from datetime import UTC

import pytest
from sqlalchemy import delete, exists, func, insert, or_, select, text, true, update
from sqlalchemy.orm import aliased
from two_tenants import AT, LIMITED, OURS, THEIRS, new_job, owner_of

from celora.models.rows import lock_if, upsert_insert
from celora.models.scope.scope import CHILDREN, Scope, ScopeError
from celora.models.scope.session import KEPT
from celora.models.states import Stage
from celora.models.tables import (
    Attempt,
    AuditEntry,
    Champion,
    Dataset,
    Event,
    Job,
    MetricPoint,
    Rating,
    Tenant,
    Worker,
)


def test_rows_of_another_tenant_are_not_there(two):
    for table in LIMITED:
        with two.session(Scope.everything) as session:
            rows = list(session.scalars(select(table)))
        keys = {owner_of(row): tuple(table.__mapper__.primary_key_from_instance(row)) for row in rows}
        assert keys.keys() == {OURS, THEIRS}
        with two.session(Scope.of(OURS)) as session:
            for statement in (select(table), select(aliased(table))):
                assert [owner_of(row) for row in session.scalars(statement)] == [OURS]
            assert session.scalar(select(func.count()).select_from(table)) == 1
            assert session.get(table, keys[OURS]) is not None
            assert session.get(table, keys[THEIRS]) is None
            assert session.get(table, keys[THEIRS], with_for_update=True) is None


READS = {
    "a column": select(Job.id).where(Job.id == "job-team-b"),
    "an alias": select(aliased(Job).id),
    "exists": select(Tenant.name).where(exists().where(Job.id == "job-team-b")),
    "a scalar subquery": select(select(Event.message).where(Event.job_id == "job-team-b").scalar_subquery()),
    "a subquery": select(select(Event.message).subquery().c.message),
    "a common table expression": select(select(Job.id).cte().c.id),
    "a join": select(Event.message).join(Job, Job.tenant != OURS),
    "an outer join": select(Job.id).select_from(Event).outerjoin(Job, Job.tenant == THEIRS),
    "a union": select(Job.id).union_all(select(Event.message)),
    "a child in a condition": select(Job.id).where(Job.id.in_(select(Event.job_id))),
    "an aggregate": select(func.max(Event.message)),
    "two tables": select(Job.id, Dataset.tenant).where(Job.tenant != Dataset.tenant),
    "a lateral": select(
        Tenant.name, select(Job.id).where(Job.tenant != Tenant.name).correlate(Tenant).scalar_subquery()
    ),
    "a condition that is always true": select(Event.message).where(or_(true(), Event.job_id == "x")),
}


def test_no_statement_reads_rows_of_another_tenant(ours):
    for way, statement in READS.items():
        rows = ours.execute(statement).all()
        assert not [row for row in rows if any(THEIRS in str(value) for value in row)], way


def test_the_ways_that_are_tried_would_find_the_other_tenant_without_a_scope(two):
    with two.session(Scope.everything) as session:
        for way, statement in READS.items():
            assert session.execute(statement).all() != [], way


def first_plain_column(table):
    columns = ((attribute.key, attribute.columns[0]) for attribute in table.__mapper__.column_attrs)
    return next((key for key, column in columns if not column.primary_key and not column.foreign_keys), "dataset_id")


def test_rows_of_another_tenant_are_neither_changed_nor_deleted(two):
    for table in set(LIMITED) - {AuditEntry}:  # which nobody changes, not even its owner
        column = first_plain_column(table)
        with two.session(Scope.of(OURS)) as session:
            changed = update(table).values({column: getattr(table, column)})
            assert session.execute(changed).rowcount == 1, table
    for table in (*CHILDREN, Rating):
        with two.session(Scope.of(OURS)) as session:
            assert session.execute(delete(table)).rowcount == 1, table
        with two.session(Scope.everything) as session:
            assert [owner_of(row) for row in session.scalars(select(table))] == [THEIRS]


def test_a_guarded_write_finds_no_job_of_another_tenant(two):
    with two.session(Scope.of(OURS)) as session:
        assert lock_if(session, "job-team-b") is None
        assert lock_if(session, "job-team-a").tenant == OURS


def test_a_tenant_writes_its_own_rows_by_every_way(two):
    with two.session(Scope.of(OURS)) as session:
        session.add(new_job(OURS, "new"))
        session.flush()
        session.add(Event(job_id="new", attempt=1, at=AT, level="info", kind="note", message="m"))
        session.flush()
        session.get(Job, "new").name = "changed"
        session.execute(insert(Attempt).values(job_id="new", number=1, worker_id="w", stage=Stage.TRAIN, started_at=AT))
        champion = {"tenant": OURS, "name": "bot", "job_id": "job-team-a", "version": 2, "since": AT}
        session.execute(
            upsert_insert(session, Champion)
            .values(**champion)
            .on_conflict_do_update(index_elements=["tenant", "name"], set_={"version": 2})
        )
        session.execute(update(Job).where(Job.id == "new").values(name="again"))
        session.delete(session.get(MetricPoint, ("job-team-a", 1, 3)))
    with two.session(Scope.everything) as session:
        assert session.get(Job, "new").name == "again"
        assert session.get(Champion, (OURS, "bot")).version == 2
        assert session.get(Champion, (THEIRS, "bot")).version == 1
        assert [owner_of(row) for row in session.scalars(select(MetricPoint))] == [THEIRS]


def test_the_clock_of_the_database_is_no_secret(two):
    with two.session(Scope.of(OURS)) as session:
        assert two.now(session).tzinfo is UTC


def test_a_transaction_has_a_scope_too(two):
    with two.transaction(Scope.of(OURS)) as session:
        assert session.get(Job, "job-team-b") is None
        assert session.get(Job, "job-team-a") is not None


def test_an_unlimited_session_reaches_everything(two):
    with two.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 2
        assert session.connection() is not None
        session.execute(text("SELECT 1"))


def test_a_statement_that_is_kept_reads_the_rows_of_each_session_anew(two):
    jobs, children = (select(column).execution_options(**{KEPT: True}) for column in (Job.tenant, Event.message))
    for _ in range(2):  # the second time from what was kept
        for scope, seen in ((Scope.of(OURS), {OURS}), (Scope.of(THEIRS), {THEIRS}), (Scope.everything, {OURS, THEIRS})):
            with two.session(scope) as session:
                assert set(session.scalars(jobs)) == seen
                assert len(list(session.scalars(children))) == len(seen)
                if scope.tenant is not None:
                    with pytest.raises(ScopeError):
                        session.scalars(select(Worker).execution_options(**{KEPT: True})).all()
