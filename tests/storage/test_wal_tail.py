"""A record whose write-ahead log was cut at any sector opens again whole, and the cut is found."""

import sqlite3
from datetime import UTC, datetime

from sqlalchemy import func, select

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant
from celora.storage.wal_tail import cut_bytes

SECTOR_BYTES = 512
AT = datetime(2026, 11, 30, tzinfo=UTC)


def write(tmp_path):
    """A record with six transactions in its log, as a power-off leaves it; and the sizes of the log between them."""
    live = Database(f"sqlite:///{tmp_path}/live.db")
    live.migrate()
    log, sizes = tmp_path / "live.db-wal", []
    with sqlite3.connect(tmp_path / "live.db") as held:  # an open connection keeps the log from being folded in
        held.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(6):
            with live.transaction(Scope.everything) as session:
                session.add(Tenant(name=f"t{number:02}", created_at=AT))
            sizes.append(log.stat().st_size)
        record, content = (tmp_path / "live.db").read_bytes(), log.read_bytes()
        live.dispose()
    held.close()
    return record, content, sizes


def test_a_log_cut_at_any_sector_leaves_every_whole_transaction_and_the_cut_is_counted(tmp_path):
    record, log, sizes = write(tmp_path)
    assert len(log) > 20 * SECTOR_BYTES
    for number, size in enumerate([*range(0, len(log), SECTOR_BYTES), len(log)]):
        path = tmp_path / f"cut-{number}.db"
        path.write_bytes(record)
        path.with_name(path.name + "-wal").write_bytes(log[:size])
        whole = [end for end in sizes if end <= size]
        assert cut_bytes(path) == size - (whole[-1] if whole else 32 if size >= 32 else 0), size
        database = Database(f"sqlite:///{path}")
        database.require_schema()
        with database.session(Scope.everything) as session:
            assert session.scalar(select(func.count()).select_from(Tenant)) == len(whole)
        database.dispose()
        with sqlite3.connect(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        raw.close()
        path.unlink()


def test_a_record_without_a_log_or_with_the_rest_of_an_earlier_one_is_whole(tmp_path):
    record, log, _ = write(tmp_path)
    path = tmp_path / "x.db"
    path.write_bytes(record)
    assert cut_bytes(path) == 0
    path.with_name("x.db-wal").write_bytes(b"")
    assert cut_bytes(path) == 0
    page = int.from_bytes(log[8:12], "big")
    older = bytearray(log[: 32 + 3 * (24 + page)])
    older[32 + 2 * (24 + page) + 8] ^= 1  # the salt of the third frame
    path.with_name("x.db-wal").write_bytes(older)
    assert cut_bytes(path) == 0
