"""The record as commands open it: made at its first use, once, and never beside that of a running installation."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from celora.cli.open_record import record
from celora.errors import StorageError
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.storage.file_lock import locked


def tables_of(database):
    with database.session(Scope.everything) as session:
        return session.query(Job).count()


def test_a_record_that_is_not_there_is_made_in_a_home_of_its_owners(new_home):
    database = record()
    assert Path(database.url.database) == new_home / "celora.db"
    assert tables_of(database) == 0
    assert new_home.stat().st_mode & 0o077 == 0


def test_a_record_that_is_there_is_opened_as_it_is(new_home):
    record().dispose()
    before = (new_home / "celora.db").stat().st_mtime_ns
    assert tables_of(record()) == 0
    assert (new_home / "celora.db").stat().st_mtime_ns == before


def test_one_without_tables_is_given_them(new_home):
    """Another command has this file when it is about to make the tables."""
    path = Path(get_database().url.database)
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as half_made:
        half_made.execute("PRAGMA journal_mode=WAL")
    assert tables_of(record()) == 0


def test_several_that_make_it_at_once_all_get_it(new_home):
    barrier, errors = threading.Barrier(3), []

    def run():
        barrier.wait()
        try:
            tables_of(record())
        except Exception as error:  # noqa: BLE001  (a thread's error is the test's)
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.fixture
def left(new_home):
    """A home whose installation wrote its address, and whose record is gone."""
    new_home.mkdir()
    (new_home / "celora.env").touch()
    return new_home


def test_none_is_made_beside_a_running_installation_whose_file_is_gone(left):
    with locked(left / "up.lock"), pytest.raises(StorageError, match="is gone, and an installation runs in") as refused:
        record()
    assert "Put the file back" in refused.value.hint
    assert not (left / "celora.db").exists()


def test_one_is_made_where_the_installation_has_ended(left):
    assert tables_of(record()) == 0


def test_another_record_than_the_home_s_may_be_made_beside_it(left, tmp_path, monkeypatch):
    monkeypatch.setenv("CELORA_DATABASE_URL", f"sqlite:///{tmp_path}/deep/own.db")
    get_settings.cache_clear()
    with locked(left / "up.lock"):
        database = record()
        assert tables_of(database) == 0
    database.dispose()
    assert (tmp_path / "deep" / "own.db").is_file()
    monkeypatch.delenv("CELORA_DATABASE_URL")
    get_settings.cache_clear()
