"""Migrations with data in the tables, down and up again, in both databases: nothing that both versions know is lost."""

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect, select, text

from celora.models import history
from celora.models.migrations import schema
from celora.models.states import Status
from celora.models.tables import Job

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
    with filled.session() as session:
        assert history.job_summary(session, "running")["status"] == "running"
        assert {job.status for job in session.scalars(select(Job))} == set(Status) - {Status.QUEUED}


def test_a_record_of_the_first_version_becomes_todays(empty_url):
    """Rows written when the first version was the newest, by plain SQL, are read by today's program."""
    from celora.models.database import Database

    database = Database(empty_url)
    schema.upgrade(database.url, VERSIONS[0])
    at = "2026-01-02 03:04:05"
    columns = {column["name"]: column for column in inspect(database.engine).get_columns("job")}
    given = {"id": "old", "tenant": "acme", "status": "pending", "stage": "train", "gpu": "auto", "spec": "{}",
             "created_at": at, "updated_at": at, "warnings": "[]", "attempt": 2}  # fmt: skip
    for name, column in columns.items():
        if not column["nullable"] and name not in given and column["default"] is None:
            given[name] = _filler(column["type"])
    names = ", ".join(given)
    with database.session() as session:
        session.execute(text(f"INSERT INTO tenant (name, created_at) VALUES ('acme', '{at}')"))  # noqa: S608  (our own words)
        places = ", ".join(f":{name}" for name in given)
        session.execute(text(f"INSERT INTO job ({names}) VALUES ({places})"), given)  # noqa: S608  (our own words)
    database.migrate()
    with database.session() as session:
        job = session.get_one(Job, "old")
        assert (job.attempt, job.status, job.paused, job.train_s) == (2, Status.PENDING, False, 0.0)
        assert job.created_at.isoformat() == "2026-01-02T03:04:05+00:00"
    database.dispose()


def _filler(kind):
    return {"BOOLEAN": False, "INTEGER": 0, "FLOAT": 0.0, "DOUBLE PRECISION": 0.0, "DOUBLE_PRECISION": 0.0}.get(
        str(kind).split("(")[0], ""
    )
