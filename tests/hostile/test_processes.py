"""Processes, files and machines that die at the wrong moment, or are put in another's place."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest
from hostile.attack import hold
from live_installation import FAST, processes_of
from worker_alone import WorkerAlone

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant

pytestmark = pytest.mark.slow


def until(condition, timeout_s=120, what=""):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.1)


class Up:
    """A ``celora up`` of its own process, with what it prints."""

    def __init__(self, home):
        self.output = home.parent / "up.log"
        environment = {**os.environ, **FAST, "CELORA_HOME": str(home)}
        with self.output.open("ab") as log:
            began = self.output.stat().st_size
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from celora.cli.app import main; main()", "up"],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(lambda: b"\nready" in b"\n" + self.output.read_bytes()[began:] or self.process.poll() is not None)
        assert self.process.poll() is None, self.output.read_text()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def servers(home):
    """Process ids of the servers that have this home's queue file open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(file.path).startswith(f"{home}/broker/appendonlydir") for file in process.open_files()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_killed_installation_ends_whole_and_its_next_start_has_one_server(tmp_path):
    home = tmp_path / "home"
    up = Up(home)
    assert len(servers(home)) == 1
    assert (home.stat().st_mode & 0o777) == 0o700
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    until(lambda: processes_of(home) == [], what=lambda: processes_of(home))
    again = Up(home)
    try:
        assert len(servers(home)) == 1
    finally:
        again.stop()
    assert processes_of(home) == []


def replaced(one, path):
    """Another record is put where the worker's is, as after a restored backup."""
    copy = path.with_name("copy.db")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    copy.replace(path)


def test_a_worker_whose_record_was_replaced_says_so_and_leaves_to_be_started_again(tmp_path):
    one = WorkerAlone(tmp_path)
    try:
        replaced(one, tmp_path / "celora.db")
        until(lambda: one.process.poll() is not None, what=lambda: one.log.read_text()[-3000:])
        assert one.process.returncode == 70
        assert "was replaced by another file" in one.log.read_text()
        one.start()
    finally:
        one.stop()


def test_a_worker_whose_record_is_gone_makes_none_and_goes_on_when_it_is_back(tmp_path):
    one = WorkerAlone(tmp_path)
    try:
        (tmp_path / "celora.db").rename(tmp_path / "aside.db")
        one.until(lambda: "celora.db is gone" in one.log.read_text())
        assert not (tmp_path / "celora.db").exists()
        (tmp_path / "aside.db").rename(tmp_path / "celora.db")
        one.until(lambda: "takes work again" in one.log.read_text())
        assert one.alive()
    finally:
        one.stop()


@pytest.mark.parametrize("seed", [20261130])
def test_a_record_whose_log_was_cut_anywhere_opens_with_whole_transactions(tmp_path, seed):
    """As after a power failure: the write-ahead log ends at some multiple of 512 bytes."""
    path = tmp_path / "celora.db"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    from datetime import UTC, datetime

    for number in range(0, 40, 2):
        with made.transaction(Scope.everything) as session:
            session.add_all(Tenant(name=f"t{number + one}", created_at=datetime.now(UTC)) for one in range(2))
    images = tmp_path / "images"
    images.mkdir()
    for name in ("celora.db", "celora.db-wal"):
        shutil.copyfile(tmp_path / name, images / name)
    made.dispose()
    whole = (images / "celora.db-wal").read_bytes()
    dice = random.Random(seed)
    for number in range(40):
        folder = tmp_path / f"cut-{number}"
        folder.mkdir()
        shutil.copyfile(images / "celora.db", folder / "celora.db")
        (folder / "celora.db-wal").write_bytes(whole[: 512 * dice.randrange(len(whole) // 512)])
        cut = Database(f"sqlite:///{folder / 'celora.db'}")
        cut.migrate()
        with cut.session(Scope.everything) as session:
            assert session.query(Tenant).filter(Tenant.name.like("t%")).count() % 2 == 0
        cut.dispose()


def test_the_first_seeded_cuts_and_deaths_hold(tmp_path):
    hold("processes", tmp_path, most=9)
