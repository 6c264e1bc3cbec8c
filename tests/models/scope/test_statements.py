"""Statements that the criteria of a scope do not reach are refused."""

import pytest
from sqlalchemy import bindparam, delete, exists, func, insert, literal_column, select, text, update
from sqlalchemy.orm import aliased
from two_tenants import AT, LIMITED, OURS, THEIRS, new_job

from celora.models.rows import upsert_insert
from celora.models.scope import session as scoped
from celora.models.scope.scope import OPERATORS, Scope, ScopeError
from celora.models.tables import (
    Announcement,
    Beacon,
    Champion,
    Dataset,
    Event,
    Job,
    Schedule,
    Tenant,
    Worker,
)


def upserted(session, table, **values):
    return upsert_insert(session, table).values(**values)


REFUSED = {
    "text": lambda s: s.execute(text("SELECT id FROM job")),
    "text in a condition": lambda s: s.execute(select(Job.id).where(text("1 = 1"))),
    "text in an order": lambda s: s.execute(select(Job.id).order_by(text("id"))),
    "a literal column": lambda s: s.execute(select(literal_column("(SELECT max(id) FROM job)"))),
    "a table of the core": lambda s: s.execute(select(Job.__table__)),
    "a column of the core": lambda s: s.execute(select(Job.__table__.c.id)),
    "a core table in exists": lambda s: s.execute(select(Tenant.name).where(exists().where(Job.__table__.c.id == "x"))),
    "a core update": lambda s: s.execute(update(Job.__table__).values(name="x")),
    "a core delete": lambda s: s.execute(delete(Event.__table__)),
    "the raw connection": lambda s: s.connection(),
    "bulk rows": lambda s: s.bulk_save_objects([new_job(THEIRS, "x")]),
    "bulk inserts": lambda s: s.bulk_insert_mappings(Event, [{"job_id": "job-team-b"}]),
    "bulk updates": lambda s: s.bulk_update_mappings(Job, [{"id": "job-team-b", "name": "x"}]),
    "the operator's table": lambda s: s.scalars(select(Worker)),
    "the operator's table in a subquery": lambda s: s.execute(select(Job.id).where(exists(select(Worker.id)))),
    "a row of another tenant": lambda s: s.add(new_job(THEIRS, "x")),
    "a child of another's job": lambda s: s.add(Announcement(job_id="job-team-b", created_at=AT)),
    "a row of the operator": lambda s: s.add(Beacon(name="x", seen_at=AT, since=AT)),
    "a row that moves": lambda s: setattr(s.get(Job, "job-team-a"), "tenant", THEIRS),
    "a child that moves": lambda s: setattr(s.scalars(select(Event)).one(), "job_id", "job-team-b"),
    "an insert": lambda s: s.execute(insert(Tenant).values(name=THEIRS, created_at=AT)),
    "an insert of several": lambda s: s.execute(
        insert(Tenant), [{"name": OURS, "created_at": AT}, {"name": "team-c", "created_at": AT}]
    ),
    "an insert of several values": lambda s: s.execute(
        insert(Tenant).values([{"name": OURS, "created_at": AT}, {"name": "team-c", "created_at": AT}])
    ),
    "an insert of a child": lambda s: s.execute(
        upserted(s, Announcement, job_id="job-team-b", created_at=AT, attempts=0).on_conflict_do_nothing()
    ),
    "an insert from a select": lambda s: s.execute(
        insert(Tenant).from_select(["name", "created_at"], select(Job.id, Job.created_at))
    ),
    "an insert by a name that is bound later": lambda s: s.execute(
        insert(Tenant).values(name=bindparam("who"), created_at=AT), {"who": THEIRS}
    ),
    "an insert that changes a row by its id": lambda s: s.execute(
        upserted(s, Dataset, id=2, tenant=OURS, name="n", version=1, sha256="3" * 64, uri="u", size_bytes=1,
                 created_at=AT).on_conflict_do_update(index_elements=["id"], set_={"uri": "stolen"})
    ),
    "an insert that moves a row": lambda s: s.execute(
        upserted(s, Champion, tenant=OURS, name="bot", job_id="job-team-a", version=1, since=AT).on_conflict_do_update(
            index_elements=["tenant", "name"], set_={"tenant": THEIRS}
        )
    ),
    "an update that moves a row": lambda s: s.execute(update(Schedule).values(tenant=THEIRS)),
    "an update that moves a child": lambda s: s.execute(update(Event).values({Event.job_id: "job-team-b"})),
    "an update by key": lambda s: s.execute(update(Job), [{"id": "job-team-b", "name": "x"}]),
}  # fmt: skip


def test_what_the_criteria_do_not_reach_is_refused(two):
    def rows():
        with two.session(Scope.everything) as session:
            found = [row for table in (*LIMITED, *OPERATORS) for row in session.scalars(select(table))]
        return [{name: value for name, value in vars(row).items() if name[0] != "_"} for row in found]

    def attempt(way):
        with two.session(Scope.of(OURS)) as session:
            way(session)
            session.flush()

    before = rows()
    for name, way in REFUSED.items():
        with pytest.raises(ScopeError):
            attempt(way)
        assert rows() == before, name


ALIKE = {
    "a bare column": (select(Job.id), select(Job.__table__.c.id)),
    "a bare table": (select(func.count()).select_from(Job), select(func.count()).select_from(Job.__table__)),
    "a bare alias": (select(aliased(Job).id), select(Job.__table__.alias().c.id)),
    "a literal": (select(Job.id, Job.tenant), select(Job.id, literal_column("job.tenant"))),
    "a text": (select(Job.id).where(Job.paused), select(Job.id).where(text("job.paused"))),
    "a joined table": (
        select(Event.id).join(Job, Job.id == Event.job_id),
        select(Event.id).join(Job.__table__, Job.__table__.c.id == Event.job_id),
    ),
    "a nested bare column": (
        select(Tenant.name).where(Tenant.name.in_(select(Job.tenant))),
        select(Tenant.name).where(Tenant.name.in_(select(Job.__table__.c.tenant))),
    ),
    "the operator's": (select(Job.id), select(Job.id).where(Job.worker_id.in_(select(Worker.id)))),
}
"""Statements that are let through, and their twins that are not."""


def test_a_statement_that_was_checked_lets_no_other_one_through(two):
    for name, (allowed, refused) in ALIKE.items():
        with two.session(Scope.of(OURS)) as session:
            session.execute(allowed)
            session.execute(allowed)
            with pytest.raises(ScopeError):
                session.execute(refused)
            with pytest.raises(ScopeError):
                session.execute(refused)
        assert allowed._generate_cache_key().key != refused._generate_cache_key().key, name


def test_what_is_known_of_a_statement_holds_for_each_tenant(two):
    wanted = select(Job.id).where(Job.id != "")
    found = {}
    for tenant in (OURS, THEIRS, OURS):
        with two.session(Scope.of(tenant)) as session:
            found[tenant] = list(session.scalars(wanted))
    assert found == {OURS: [f"job-{OURS}"], THEIRS: [f"job-{THEIRS}"]}


def test_the_checked_statements_are_bounded(two, monkeypatch):
    monkeypatch.setattr(scoped, "MOST_CHECKED", 3)
    monkeypatch.setattr(scoped, "_checked", {})
    with two.session(Scope.of(OURS)) as session:
        for number in range(9):
            session.execute(select(*[Job.id] * (number + 1)))
            assert len(scoped._checked) <= 3
