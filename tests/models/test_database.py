"""The database itself: transactions, clock, locks, forks, and what it says when it is not there."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from waiting import until

from celora.errors import NotFoundError, SettingsError, UnavailableError
from celora.models import database as databases
from celora.models import queries
from celora.models.database import Database, get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant, Worker

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def names(database):
    with database.session(Scope.everything) as session:
        return sorted(session.scalars(select(Tenant.name)))


def _add_and_fail(session):
    session.add(Tenant(name="lost", created_at=NOW))
    session.flush()
    raise KeyError


def test_a_session_commits_at_its_end_and_rolls_back_on_an_error(database):
    with database.session(Scope.everything) as session:
        session.add(Tenant(name="kept", created_at=NOW))
    for open_ in (database.session, database.transaction):
        with pytest.raises(KeyError), open_(Scope.everything) as session:
            _add_and_fail(session)
    assert names(database) == ["kept"]


def test_the_clock_is_aware_and_runs(database):
    with database.session(Scope.everything) as session:
        first = database.now(session)
        session.execute(text("SELECT 1"))
        second = database.now(session)
    assert first.tzinfo is UTC
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)
    assert first <= second


def test_a_savepoint_rolls_back_alone(database):
    with database.session(Scope.everything) as session:
        session.scalars(select(Tenant.name)).all()
        session.add(Tenant(name="kept", created_at=NOW))
        session.flush()
        with pytest.raises(KeyError), session.begin_nested():
            _add_and_fail(session)
    assert names(database) == ["kept"]


def test_many_writers_at_once_lose_nothing(database):
    with database.session(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=NOW, max_gpus=0))

    def add():
        for _ in range(5):
            with database.transaction(Scope.everything) as session:
                assert database.advisory_lock(session, "count") or database.url.get_backend_name() != "sqlite"
                session.scalars(select(Tenant.max_gpus)).one()
                session.execute(text("UPDATE tenant SET max_gpus = max_gpus + 1"))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with database.session(Scope.everything) as session:
        assert session.get_one(Tenant, "acme").max_gpus == 20


def test_the_advisory_lock_is_one_holders_until_the_transaction_ends(database):
    with database.transaction(Scope.everything) as session:
        assert database.advisory_lock(session, "dispatch")
        if database.url.get_backend_name() == "postgresql":
            with database.transaction(Scope.everything) as other:
                assert not database.advisory_lock(other, "dispatch")
                assert database.advisory_lock(other, "another")
        else:
            waited, entered = threading.Event(), threading.Event()

            def wait():
                waited.set()
                with database.transaction(Scope.everything) as other:
                    assert database.advisory_lock(other, "dispatch")
                    entered.set()

            waiting = threading.Thread(target=wait)
            waiting.start()
            waited.wait(10)
            assert not entered.wait(0.2)
    with database.transaction(Scope.everything) as session:
        assert database.advisory_lock(session, "dispatch")
    if database.url.get_backend_name() == "sqlite":
        assert entered.wait(10)
        waiting.join(10)


def test_no_session_opens_without_a_scope(database):
    for open_ in (database.session, database.transaction):
        with pytest.raises(TypeError, match="scope"):
            open_()


FORK = """
import os, sys
from celora.models.database import Database, get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant
from sqlalchemy import select
from datetime import datetime, UTC

def add(name):
    with get_database().transaction(Scope.everything) as session:
        session.add(Tenant(name=name, created_at=datetime.now(UTC)))

def backend(database):
    with database.session(Scope.everything) as session:
        raw = session.connection().connection.driver_connection
        return raw.info.backend_pid if hasattr(raw, "info") else id(raw)

parents, spare = get_database(), Database(sys.argv[1])
add("parent")
mine, spares = backend(parents), backend(spare)
child = os.fork()
if child == 0:
    add("child")
    assert get_database() is not parents
    parents.dispose()                       # what a library may do in a child
    with spare.session(Scope.everything) as session:  # an object of the parent's heals itself
        session.add(Tenant(name="healed", created_at=datetime.now(UTC)))
    if "postgres" in sys.argv[1]:
        assert not {backend(parents), backend(get_database()), backend(spare)} & {mine, spares}
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert get_database() is parents and (backend(parents), backend(spare)) == (mine, spares)
add("again")
with parents.session(Scope.everything) as session:
    print(sorted(session.scalars(select(Tenant.name))))
"""


@pytest.mark.slow
def test_a_forked_child_leaves_its_parents_connections_alone(empty_url, home, monkeypatch):
    monkeypatch.setenv("CELORA_DATABASE_URL", empty_url)
    made = Database(empty_url)
    made.migrate()
    made.dispose()
    ran = subprocess.run([sys.executable, "-c", FORK, empty_url], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "['again', 'child', 'healed', 'parent']", ran.stderr


def test_the_settings_name_the_database_of_a_process(home):
    first = get_database()
    assert first is get_database()
    assert first.shown == f"sqlite:///{home}/celora.db"


def test_a_session_survives_that_the_server_ended_its_connection(new_postgres):
    database = Database(new_postgres())
    database.migrate()
    with database.session(Scope.everything) as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    other = Database(str(database.url.render_as_string(hide_password=False)))
    with other.session(Scope.everything) as session:
        session.execute(text(f"SELECT pg_terminate_backend({pid})"))
    other.dispose()
    assert names(database) == []
    database.dispose()


def test_a_connection_that_ends_in_the_middle_is_told_as_unavailable(new_postgres):
    database = Database(new_postgres())
    database.migrate()
    with pytest.raises(UnavailableError, match="can't be reached"), database.session(Scope.everything) as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert names(database) == []
    database.dispose()


def test_an_unreachable_database_is_told_in_a_sentence_without_its_password(tmp_path):
    (tmp_path / "folder.db").mkdir()
    servers = "postgresql://ada:secret@127.0.0.1:1/record"
    for url, said in ((servers, "refused"), (f"sqlite:///{tmp_path}/folder.db", "unable to open")):
        made = Database(url)
        for ask in (lambda made=made: names(made), made.require_schema, made.migrate):
            with pytest.raises(UnavailableError, match=said) as caught:
                ask()
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)
            assert "CELORA_DATABASE_URL" in caught.value.hint


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_text_can_hold_is_refused_or_not_there(database, name):
    with pytest.raises((SettingsError, NotFoundError)) as refused, database.session(Scope.everything) as session:
        queries.get_tenant(session, name)
    assert "no text can hold" in str(refused.value) or (name == "a\0b" and "no tenant" in str(refused.value))


def test_a_full_disk_is_told(tmp_path):
    from celora.errors import DiskFullError

    made = Database(f"sqlite:///{tmp_path}/record.db")
    made.migrate()
    many = [Tenant(name=f"{number:04d}" * 16, created_at=NOW) for number in range(100)]
    with made.session(Scope.everything) as session:
        session.execute(text("PRAGMA max_page_count = 1"))
    with pytest.raises(DiskFullError, match="no space left"), made.session(Scope.everything) as session:
        session.add_all(many)
    made.dispose()


def test_missing_tables_are_told_with_the_command(empty_url):
    made = Database(empty_url)
    with pytest.raises(SettingsError, match="celora migrate"), made.session(Scope.everything) as session:
        session.scalars(select(Worker)).all()
    made.dispose()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_the_records_is_refused(url):
    with pytest.raises(SettingsError, match="CELORA_DATABASE_URL"):
        Database(url)


def test_a_missing_driver_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"celora\[postgres\]"):
        Database("postgresql://host/record")


def test_the_ways_to_write_a_postgres_url_are_one():
    for url in ("postgres://h/d", "postgresql://h/d", "postgresql+psycopg://h/d"):
        assert Database(url).url.drivername == "postgresql+psycopg"


def test_whoever_sleeps_inside_a_transaction_loses_it_and_is_told(new_postgres):
    url = new_postgres()
    Database(url).migrate()
    made = Database(url + "&options=-c idle_in_transaction_session_timeout=100")
    with pytest.raises(UnavailableError, match="idle-in-transaction"):
        _stay_inside(made, url)  # as a SIGSTOP does it; the row's lock is free again after a tenth of a second
    with made.transaction(Scope.everything) as session:
        assert session.scalars(select(Tenant.name)).all() == []
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "100ms"
    made.dispose()


def _stay_inside(database, url):
    """Write a row, and go on once the server has ended the connection."""
    other = Database(url)
    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="frozen", created_at=NOW))
        session.flush()
        alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid").bindparams(
            pid=session.scalar(text("SELECT pg_backend_pid()"))
        )

        def ended():
            with other.session(Scope.everything) as session:
                return not session.scalar(alive)

        until(ended)
        other.dispose()


HEAVY = (
    "import sys, celora.models.jobs.transitions, celora.models.queries, celora.storage.artifacts; print(*sys.modules)"
)


def test_importing_the_record_loads_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert not loaded & {"torch", "transformers", "datasets", "tokenizers", "alembic", "celery"}
