"""An orphaned broker and a replaced record are named with the command that mends them; otherwise nothing is said."""

import sqlite3

from celora.doctor.leftovers import leftovers
from celora.models.database import Database
from celora.settings.settings import load_settings
from celora.storage.file_lock import locked
from celora.workers.node.embedded_broker import EmbeddedBroker
from celora.workers.node.record_identity import remember_record


def test_a_broker_that_runs_without_an_installation_is_an_orphan(home):
    assert list(leftovers(load_settings())) == []
    server = EmbeddedBroker(home / "broker")
    server.start()
    try:
        (found,) = leftovers(load_settings())
        assert (found.check, f"port {server._port}" in found.found, "celora up" in found.fix) == (
            "broker.orphan", True, True,
        )  # fmt: skip
        with locked(home / "up.lock"):
            assert list(leftovers(load_settings())) == []
    finally:
        server.stop()
    assert list(leftovers(load_settings())) == []


def test_a_record_that_was_replaced_under_a_running_installation_is_told(home):
    settings = load_settings()
    record = Database(settings.database)
    record.migrate()
    remember_record(settings, record)
    record.dispose()
    with locked(home / "up.lock"):
        assert list(leftovers(settings)) == []
        with sqlite3.connect(home / "celora.db") as source, sqlite3.connect(home / "copy.db") as target:
            source.backup(target)
        source.close()
        target.close()
        (home / "copy.db").replace(home / "celora.db")
        (found,) = leftovers(settings)
        assert (found.check, str(home / "celora.db") in found.found) == ("record.replaced", True)
    assert list(leftovers(settings)) == []
