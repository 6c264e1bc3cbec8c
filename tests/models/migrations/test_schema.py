"""Migrations: they make exactly the tables, both ways, once however many ask, and say when they are needed."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from celora.errors import SettingsError
from celora.models.database import Database
from celora.models.migrations import schema
from celora.models.scope.scope import Scope
from celora.models.tables import Table


@pytest.fixture
def fresh(empty_url):
    made = Database(empty_url)
    yield made
    made.dispose()


def not_the_turn(_object, name, *_):
    """Alembic cannot compare an index with a descending column in SQLite; the test after this one does."""
    return name != "ix_job_turn"


def test_the_migrations_make_exactly_what_the_tables_say(fresh):
    fresh.migrate()
    options = {"compare_type": True, "compare_server_default": True, "include_object": not_the_turn}
    with fresh.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Table.metadata) == []


def test_indexes_that_an_operator_made_beforehand_are_left_and_those_that_broke_off_are_made_anew(fresh):
    schema.upgrade(fresh.url, "0018")
    at_once = "" if fresh.url.get_backend_name() == "sqlite" else "CONCURRENTLY"
    page = Path(schema.__file__).parents[2] / "CHANGELOG.md"
    commands = re.findall(r"`(CREATE INDEX CONCURRENTLY [^`]*)`", page.read_text(encoding="utf-8"))
    assert len(commands) == 3
    with fresh.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in commands[:2]:
            connection.execute(text(command.replace("CONCURRENTLY", at_once)))
        if at_once:
            name = commands[0].split()[3]
            connection.execute(text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass"))  # noqa: S608  (a constant)
    fresh.migrate()
    options = {"include_object": not_the_turn}
    with fresh.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata) == []
        if at_once:
            assert connection.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0


PARTIAL = sorted(
    (index for table in Table.metadata.tables.values() for index in table.indexes if "where" in index.info),
    key=lambda index: index.name,
)


@pytest.mark.parametrize("wanted", PARTIAL, ids=lambda index: index.name)
def test_a_partial_index_is_made_as_the_table_says(fresh, wanted):
    """The predicate stands in ``Index.info`` (``tables.types``), which neither Alembic nor ``create`` reads."""
    fresh.migrate()
    with fresh.engine.begin() as connection:
        dialect = connection.dialect.name
        name, place = (
            ("sql", "sqlite_master WHERE name") if dialect == "sqlite" else ("indexdef", "pg_indexes WHERE indexname")
        )
        made = text(f"SELECT {name} FROM {place} = '{wanted.name}'")  # noqa: S608  (constants)
        before = connection.scalar(made)
        wanted.drop(connection)
        wanted.dialect_options[dialect]["where"] = wanted.info["where"]
        try:
            wanted.create(connection)
        finally:
            wanted.dialect_options[dialect]["where"] = None
        assert connection.scalar(made) == before.replace("asks = 1", "asks")


def test_a_difference_would_be_seen(fresh):
    fresh.migrate()
    with fresh.session(Scope.everything) as session:
        session.execute(text("ALTER TABLE job DROP COLUMN wait_reason"))
        session.execute(text("DROP INDEX ix_job_status_stage"))
    with fresh.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": not_the_turn})
        found = compare_metadata(context, Table.metadata)
    assert {difference[0] for difference in found} == {"add_column", "add_index"}


def test_down_and_up_again(fresh):
    fresh.migrate()
    schema.downgrade(fresh.url, "base")
    assert inspect(fresh.engine).get_table_names() == ["alembic_version"]
    fresh.migrate()
    fresh.require_schema()


def test_migrating_twice_keeps_what_is_there(fresh):
    fresh.migrate()
    with fresh.session(Scope.everything) as session:
        session.execute(text("INSERT INTO tenant (name, created_at) VALUES ('acme', '2026-11-24')"))
    fresh.migrate()
    with fresh.session(Scope.everything) as session:
        assert session.scalar(text("SELECT count(*) FROM tenant")) == 1


def test_a_migration_that_fails_leaves_nothing_behind(fresh, monkeypatch):
    upgrade = schema.command.upgrade

    def then_fail(config, revision):
        upgrade(config, revision)
        raise KeyError

    monkeypatch.setattr(schema.command, "upgrade", then_fail)
    with pytest.raises(KeyError):
        fresh.migrate()
    assert inspect(fresh.engine).get_table_names() == []


MIGRATE = "import sys; from celora.models.database import Database; d = Database(sys.argv[1]); d.migrate(); d.dispose()"


@pytest.mark.slow
def test_several_processes_may_migrate_at_once(fresh, empty_url):
    running = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    fresh.require_schema()


def test_several_threads_may_migrate_different_records_at_once(tmp_path):
    databases = [Database(f"sqlite:///{tmp_path}/{number}.db") for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(Database.migrate, databases))
    for database in databases:
        database.require_schema()
        database.dispose()


def test_what_is_missing_older_or_newer_is_told(fresh, monkeypatch):
    with pytest.raises(SettingsError, match=r"(no tables|no record at .*) yet.*celora migrate"):
        fresh.require_schema()
    fresh.migrate()
    with monkeypatch.context() as patch:
        patch.setattr(ScriptDirectory, "get_current_head", lambda self: "the next")
        with pytest.raises(SettingsError, match=r"older than this celora.*celora migrate"):
            fresh.require_schema()
    with fresh.session(Scope.everything) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"newer than this celora.*Install"):
        fresh.require_schema()


def test_there_is_one_newest_version(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/record.db")
    made.migrate()
    with made.engine.connect() as connection:
        assert len(ScriptDirectory.from_config(schema._config(connection)).get_heads()) == 1
    made.dispose()
