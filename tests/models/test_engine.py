"""Engines: SQLite's durability, its transactions and write lock, PostgreSQL's waiting times, forks beside a
transaction."""

import os
import threading
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text

from celora.errors import SettingsError
from celora.models import engine
from celora.models.database import Database
from celora.models.engine import ForkBarrier, lock_key
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def names(database):
    with database.session(Scope.everything) as session:
        return sorted(session.scalars(select(Tenant.name)))


def test_sqlite_is_durable_and_checks_references(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/new/folder/a %20 name?.db".replace("?", "%3F"))
    made.migrate()
    with made.session(Scope.everything) as session:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [session.scalar(text(f"PRAGMA {name}")) for name in pragmas]
    assert found == ["wal", 2, 1, 30_000]
    made.dispose()


def test_nothing_but_a_migration_makes_a_sqlite_file(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/record.db")
    for open_ in (lambda: names(made), made.require_schema):
        with pytest.raises(SettingsError, match=r"no record at .*celora migrate"):
            open_()
    assert not (tmp_path / "record.db").exists()


def test_a_reader_that_turns_writer_is_not_refused(database):
    with database.session(Scope.everything) as session:
        assert session.scalars(select(Tenant.name)).all() == []
        with database.session(Scope.everything) as other:
            other.add(Tenant(name="other", created_at=NOW))
        session.add(Tenant(name="own", created_at=NOW))
    assert names(database) == ["other", "own"]


def test_a_transaction_has_half_a_minute_unless_the_url_says_otherwise(new_postgres):
    made = Database(new_postgres())
    with made.session(Scope.everything) as session:
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "30s"
    made.dispose()


def test_a_named_lock_has_one_number_that_fits_postgresqls_bigint():
    assert lock_key("dispatch") == lock_key("dispatch") != lock_key("migrate")
    assert -(2**63) <= lock_key("dispatch") < 2**63


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """A database whose write lock is held half of the time by a thread of this process."""
    monkeypatch.setattr("celora.models.engine.BUSY_TIMEOUT_S", 20)
    database, stop = Database(f"sqlite:///{tmp_path}/record.db"), threading.Event()
    database.migrate()

    def write():
        while not stop.is_set():
            with database.transaction(Scope.everything) as session:
                session.execute(text("UPDATE tenant SET max_gpus = 1"))
                stop.wait(0.01)
            stop.wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    yield database
    stop.set()
    thread.join()
    database.dispose()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # as billiard does it
def test_children_forked_beside_a_writer_can_all_write(writing):
    codes = []
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(_write(writing))
        codes.append(os.waitpid(child, 0)[1])
        assert codes[-1] == 0, f"the child number {len(codes)}"


def _write(database):
    try:
        with database.transaction(Scope.everything) as session:
            session.execute(text("UPDATE tenant SET max_gpus = 2"))
    except BaseException:  # noqa: BLE001  (nothing of pytest's may run in the child)
        return 1
    return 0


def test_a_thread_that_forks_inside_its_own_transaction_does_not_wait_for_itself(monkeypatch):
    monkeypatch.setattr(engine, "FORK_WAIT_S", 3600)
    barrier = ForkBarrier()
    with barrier.inside(), barrier.inside():
        barrier.close()
        barrier.open()


def test_a_fork_waits_for_another_threads_transaction_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(engine, "FORK_WAIT_S", 0.2)
    barrier, entered, leave = ForkBarrier(), threading.Event(), threading.Event()

    def stay():
        with barrier.inside():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    entered.wait()
    began = time.monotonic()
    barrier.close()
    barrier.open()
    assert time.monotonic() - began >= 0.2
    leave.set()
    thread.join()
    barrier.close()
    barrier.open()
