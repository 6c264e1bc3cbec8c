"""The backup and restore that deploy/README.md describes: its own commands, run on records with data in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_files import DEPLOY
from pages import blocks
from records import fill
from sqlalchemy import select

from celora.models import events
from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Job, Table

PROGRAMS = Path(sys.executable).parent


def script(name):
    """The block of the README that begins with this name as a comment."""
    return next(block.text for block in blocks((DEPLOY / "README.md").read_text()) if block.name == name)


def run(name, *, path="", **variables):
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    environment["PATH"] = f"{path}:{PROGRAMS}:{os.environ['PATH']}"
    done = subprocess.run(["/bin/sh", "-eu", "-c", script(name)], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def rows_of(database):
    with database.session(Scope.everything) as session:
        return {
            table.name: [dict(row) for row in session.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in Table.metadata.sorted_tables
        }


@pytest.fixture
def places(tmp_path, home):
    """A home with an artifact in it, one for the restored installation, and a folder for the backup."""
    made = {name: tmp_path / name for name in ("before", "after", "backup")}
    for folder in made.values():
        folder.mkdir()
    artifact = made["before"] / "artifacts" / "jobs" / "done" / "attempt-1" / "adapter_model.safetensors"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(b"weights")
    return made


def whole(places):
    return (places["after"] / "artifacts/jobs/done/attempt-1/adapter_model.safetensors").read_bytes() == b"weights"


@pytest.mark.slow
def test_sqlite_is_backed_up_while_it_is_written_and_restored(places):
    shutil.rmtree(places["after"])
    old = Database(f"sqlite:///{places['before']}/celora.db")
    old.migrate()
    fill(old)
    before = rows_of(old)
    with old.transaction(Scope.everything) as session:  # somebody writes at this very moment
        events.record_event(session, "done", 1, "info", "note", "not committed yet", {})
        run("backup-sqlite", CELORA_HOME=places["before"], BACKUP=places["backup"])
    run("restore-sqlite", CELORA_HOME=places["after"], BACKUP=places["backup"])
    new = Database(f"sqlite:///{places['after']}/celora.db")
    assert rows_of(new) == before
    assert whole(places)
    with new.session(Scope.everything) as session:
        assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    old.dispose()
    new.dispose()


@pytest.mark.slow
def test_postgresql_is_dumped_and_restored(places, new_postgres):
    from chaos.servers import _programs

    source, target = new_postgres(), new_postgres()
    old = Database(source)
    old.migrate()
    fill(old)
    before = rows_of(old)
    run("backup-postgresql", path=_programs(), CELORA_HOME=places["before"], BACKUP=places["backup"],
        CELORA_DATABASE_URL=source)  # fmt: skip
    with old.transaction(Scope.everything) as session:
        session.delete(session.get_one(Job, "cancelled"))  # the mishap
    run("restore-postgresql", path=_programs(), CELORA_HOME=places["after"], BACKUP=places["backup"],
        CELORA_DATABASE_URL=target)  # fmt: skip
    new = Database(target)
    assert rows_of(new) == before
    assert whole(places)
    with new.transaction(Scope.everything) as session:  # sequences are restored as well
        events.record_event(session, "done", 1, "info", "note", "after the restore", {})
    old.dispose()
    new.dispose()
