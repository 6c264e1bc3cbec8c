"""Migrations with data in the tables, down and up again, in both databases: nothing that both versions know is lost."""

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect, select, text

from celora.models import datasets, queries
from celora.models.migrations import schema
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Job, LedgerMonth
from celora.models.tenants.keys import authenticate, create_key
from celora.models.tenants.limits import stored_bytes

pytestmark = pytest.mark.slow  # whole records are copied and migrated

AT = "2026-01-02 03:04:05"
VERSIONS = [one.revision for one in ScriptDirectory(schema.__file__.rpartition("/")[0]).walk_revisions()][::-1]


@pytest.fixture
def filled(empty_url):
    from records import fill

    from celora.models.database import Database

    made = Database(empty_url)
    made.migrate()
    fill(made)
    yield made
    made.dispose()


def rows(database):
    """Every row of every table that there is, by the columns that there are."""
    found, known = {}, MetaData()
    with database.engine.connect() as connection:
        known.reflect(connection)
        for table in known.sorted_tables:
            if table.name != "alembic_version":
                read = connection.execute(select(table).order_by(*table.primary_key)).mappings()
                found[table.name] = [dict(row) for row in read]
    return found


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_down_to_a_version_and_up_again_keeps_what_both_know(filled, version):
    newest = rows(filled)
    schema.downgrade(filled.url, version)
    older = rows(filled)
    assert older["job"]
    for name, kept in older.items():
        for was, now in zip(newest[name], kept, strict=True):
            assert now == {column: was[column] for column in now}, name
    filled.migrate()
    filled.require_schema()
    again = rows(filled)
    assert set(again) == set(newest)
    for name, kept in older.items():
        for was, now in zip(kept, again[name], strict=True):
            assert {column: now[column] for column in was} == was, name
    with filled.session(Scope.everything) as session:
        assert queries.job_detail(session, "running").status == "running"
        assert {job.status for job in session.scalars(select(Job))} == set(Status) - {Status.QUEUED}


def test_a_record_of_the_first_version_becomes_todays(empty_url):
    """Rows written when the first version was the newest, by plain SQL, are read by today's program."""
    from celora.models.database import Database

    database = Database(empty_url)
    schema.upgrade(database.url, VERSIONS[0])
    _write(database, "job", id="old", tenant="acme", status="pending", attempt=2)
    database.migrate()
    with database.session(Scope.everything) as session:
        job = session.get_one(Job, "old")
        assert (job.attempt, job.status, job.paused, job.train_s) == (2, Status.PENDING, False, 0.0)
        assert job.created_at.isoformat() == "2026-01-02T03:04:05+00:00"
    database.dispose()


def test_an_installation_of_three_labels_becomes_one_of_three_tenants(empty_url):
    """Jobs of three labels, written before tenants had keys and a ledger: each finds its own, and is charged."""
    from celora.models.database import Database

    database = Database(empty_url)
    schema.upgrade(database.url, "0006")
    labels = ("default", "team-a", "team-b")
    for label in labels:
        for number, status in enumerate(("completed", "failed", "pending"), start=1):
            used = {} if status == "pending" else {"gpu_seconds": 60.0 * number, "cost": number, "finished_at": AT}
            _write(database, "job", id=f"{label}-{number}", tenant=label, status=status, **used)
        _write(database, "dataset", tenant=label, name="rows", version=1, sha256="1" * 64, uri="d", size_bytes=7)
    database.migrate()
    for label in labels:
        with database.session(Scope.of(label)) as session:
            assert {job.id for job in queries.list_jobs(session)} == {f"{label}-{number}" for number in (1, 2, 3)}
            assert [row["tenant"] for row in datasets.listed(session)] == [label]
            (month,) = session.scalars(select(LedgerMonth)).all()
            assert (month.tenant, month.spent_ms, month.spent_micros) == (label, 180_000, 3_000_000)
            for other in labels:
                found = session.get(Job, f"{other}-1")
                assert (found is None) == (other != label)
            assert stored_bytes(session, label) == 7
        with database.transaction(Scope.of(label)) as session:
            assert queries.get_tenant(session, label) == label
            _, key = create_key(session, tenant=label, scopes=["read"], name="", by="ada", expires_at=None)
        with database.session(Scope.everything) as session:
            assert authenticate(session, key).tenant == label
    database.dispose()


def _write(database, table, **given):
    """Write a row by plain SQL, as the version of the tables has them; its tenant is made where it is missing."""
    usual = {"stage": "train", "gpu": "auto", "spec": "{}", "created_at": AT, "updated_at": AT, "warnings": "[]"}
    columns = {column["name"]: column for column in inspect(database.engine).get_columns(table)}
    given |= {name: value for name, value in usual.items() if name in columns and name not in given}
    for name, column in columns.items():
        if not column["nullable"] and column["default"] is None and name not in (*given, "id"):
            given[name] = _filler(column["type"])
    names, places = ", ".join(given), ", ".join(f":{name}" for name in given)
    with database.session(Scope.everything) as session:
        tenant = "INSERT INTO tenant (name, created_at) VALUES (:tenant, :at) ON CONFLICT DO NOTHING"
        session.execute(text(tenant), {"tenant": given["tenant"], "at": AT})
        session.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), given)  # noqa: S608  (our own words)


def _filler(kind):
    return {"BOOLEAN": False, "INTEGER": 0, "FLOAT": 0.0, "DOUBLE PRECISION": 0.0, "DOUBLE_PRECISION": 0.0}.get(
        str(kind).split("(")[0], ""
    )
