"""The record's file is remembered from a start to its stop; a server's record has no file."""

from celora.models.database import Database
from celora.settings.settings import load_settings
from celora.workers.node.record_identity import REMEMBERED, forget_record, remember_record, replaced_since_start


def test_the_same_file_is_no_replacement_and_a_missing_one_neither(home):
    settings = load_settings()
    record = Database(settings.database)
    record.migrate()
    assert not replaced_since_start(settings)
    remember_record(settings, record)
    record.dispose()
    assert (home / REMEMBERED).stat().st_mode & 0o777 == 0o600
    assert not replaced_since_start(settings)
    (home / "celora.db").rename(home / "aside.db")
    assert not replaced_since_start(settings)
    (home / "celora.db").write_bytes(b"")
    assert replaced_since_start(settings)
    forget_record(settings)
    assert not replaced_since_start(settings)


def test_a_servers_record_is_always_the_same(home):
    settings = load_settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    record = Database(settings.database)
    remember_record(settings, record)
    assert not (home / REMEMBERED).exists()
    record.dispose()
