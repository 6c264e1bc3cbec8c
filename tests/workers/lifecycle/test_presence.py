"""The presence of a job in the foreground: a worker of kind ``job`` that a drain reaches and that leaves with its
block."""

import threading

from celora.models.scope.scope import Scope
from celora.models.tables import Worker
from celora.settings.settings import load_settings
from celora.workers.gpu import Device
from celora.workers.lifecycle.presence import Presence

CPU = Device(index=0, gpu_type="cpu", uuid="", name="CPU", memory_bytes=8 * 2**30)


def row(database):
    with database.session(Scope.everything) as session:
        return session.get_one(Worker, "run-job-one@here")


def test_a_drain_reaches_the_process_and_the_end_marks_it_offline(database, home):
    settings, leaving = load_settings(running=False, heartbeat_s=0.05), threading.Event()
    with Presence(database, settings, "run-job-one@here", CPU, leaving):
        assert (row(database).kind, row(database).status, row(database).queues) == ("job", "online", [])
        with database.transaction(Scope.everything) as session:
            session.get_one(Worker, "run-job-one@here").drain_asked = True
        assert leaving.wait(60)
    assert row(database).status == "offline"


def test_a_row_that_was_deleted_is_written_anew(database, home):
    settings = load_settings(running=False, heartbeat_s=0.05)
    with Presence(database, settings, "run-job-one@here", CPU, threading.Event()) as presence:
        with database.transaction(Scope.everything) as session:
            session.delete(session.get_one(Worker, presence.worker_id))
        found = threading.Event()

        def look():
            while not found.wait(0.02):
                with database.session(Scope.everything) as session:
                    if session.get(Worker, presence.worker_id) is not None:
                        found.set()

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        assert found.wait(60)
        watcher.join(60)
