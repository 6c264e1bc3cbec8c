"""A fork beside a thread that writes: the child must find the database as free as anybody does."""

import os
import threading
import time

import pytest
from sqlalchemy import text

from celora.models import forks
from celora.models.database import Database
from celora.models.forks import Gate


@pytest.fixture
def writing(tmp_path, monkeypatch):
    """A database whose write lock is held half of the time by a thread of this process."""
    monkeypatch.setattr("celora.models.database.BUSY_TIMEOUT_S", 2)
    database, stop = Database(f"sqlite:///{tmp_path}/record.db"), threading.Event()
    database.migrate()

    def write():
        while not stop.is_set():
            with database.transaction() as session:
                session.execute(text("UPDATE tenant SET max_gpus = 1"))
                time.sleep(0.01)
            time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    yield database
    stop.set()
    thread.join(10)
    database.dispose()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # as billiard does it
def test_children_forked_beside_a_writer_can_all_write(writing):
    codes = []
    for _ in range(12):
        child = os.fork()
        if child == 0:
            os._exit(_write(writing))
        codes.append(os.waitpid(child, 0)[1])
    assert codes == [0] * 12


def _write(database):
    try:
        with database.transaction() as session:
            session.execute(text("UPDATE tenant SET max_gpus = 2"))
    except BaseException:  # noqa: BLE001  (nothing of pytest's may run in the child)
        return 1
    return 0


def test_a_thread_that_forks_inside_its_own_transaction_does_not_wait_for_itself():
    gate = Gate()
    with gate.inside(), gate.inside():
        began = time.monotonic()
        gate.close()
        gate.open()
    assert time.monotonic() - began < forks.WAIT_S / 2


def test_a_fork_waits_for_another_threads_transaction_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(forks, "WAIT_S", 0.2)
    gate, entered, leave = Gate(), threading.Event(), threading.Event()

    def stay():
        with gate.inside():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait(10)
    began = time.monotonic()
    gate.close()
    gate.open()
    assert 0.2 <= time.monotonic() - began < 5
    leave.set()
    thread.join(10)
    gate.close()
    gate.open()
