"""Makes SQLAlchemy engines for SQLite and PostgreSQL, with their timeouts, transactions, locks and fork safety.

Unusual: under SQLite a transaction that writes holds the write lock from its first write on. A transaction that has
only read so far is ended and begun again as ``BEGIN IMMEDIATE``, so SQLite never answers "database is locked" to a
reader that begins to write. Rows that were read before may then be old, exactly as under PostgreSQL's READ COMMITTED.

A fork waits until no other thread of this process is inside a transaction (``fork_barrier``). SQLite keeps in the
process a list of the locks that its connections hold. A child that is forked inside another thread's transaction
inherits that list and not the locks, and finds the database locked for ever; a worker's main process forks its children
while a thread of it renews the worker's heartbeat.
"""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
FORK_WAIT_S = 10.0
"""Longest wait of a fork for other transactions; the fork then continues, so that no worker blocks for ever."""
MIGRATE = "Run `celora migrate`."
BEGIN = "celora_begin"
"""The execution option of a connection that names the mode of SQLite's BEGIN: ``IMMEDIATE``, or none."""

_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "SAVEPOINT", "CREATE", "ALTER", "DROP")


class ForkBarrier:
    """Counts the threads inside a transaction, and lets no thread enter one during a fork."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # on an RLock: whoever forks holds it until the fork is over
        self._inside = 0
        self._own = threading.local()

    @contextmanager
    def inside(self) -> Generator[None]:
        """Count this thread as inside for the block, which is one transaction."""
        with self._condition:
            self._count(1)
        try:
            yield
        finally:
            with self._condition:
                self._count(-1)
                self._condition.notify_all()

    def close(self) -> None:
        """Wait for the other threads' transactions and let no thread begin one; called before a fork."""
        self._condition.acquire()
        self._condition.wait_for(lambda: self._inside <= self._mine, timeout=FORK_WAIT_S)

    def open(self) -> None:
        """Let threads begin transactions again; called in the parent after a fork."""
        self._condition.release()

    @property
    def _mine(self) -> int:
        return getattr(self._own, "count", 0)

    def _count(self, change: int) -> None:
        self._inside += change
        self._own.count = self._mine + change


fork_barrier = ForkBarrier()


def _reset_in_child() -> None:
    """Reset the count of threads: a child has one thread, which is outside of every transaction."""
    fork_barrier.__init__()


os.register_at_fork(before=fork_barrier.close, after_in_parent=fork_barrier.open, after_in_child=_reset_in_child)


def new_engine(url: URL, *, foreign_keys: bool = True, **options: Any) -> Engine:
    """Make an engine for either kind of database.

    Args:
        url: The database's URL.
        foreign_keys: True if SQLite checks references.
        options: SQLAlchemy's own options of ``create_engine``.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, foreign_keys=foreign_keys, **options)
    waits = {"connect_timeout": CONNECT_TIMEOUT_S, "keepalives_idle": 10, "keepalives_interval": 5}
    waits |= {"keepalives_count": 3, "tcp_user_timeout": BUSY_TIMEOUT_S * 1000}
    # a process that is frozen inside a transaction must not hold its row from the reaper for ever
    waits |= {"options": f"-c idle_in_transaction_session_timeout={BUSY_TIMEOUT_S}s"}
    given = {"application_name": "celora", **waits, **url.query}  # what the URL says wins
    return create_engine(url.set(query={}), pool_pre_ping=True, connect_args=given, **options)


def on_sqlite(connection: Connection) -> bool:
    """Return whether the connection is to a SQLite file."""
    return connection.dialect.name == "sqlite"


def take_write_lock(connection: Connection) -> None:
    """Wait for SQLite's write lock and hold it for the rest of the transaction, which must not have written yet."""
    held = connection.connection
    if not held.info.get("writes"):
        raw = held.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise TypeError(f"{raw!r} is no SQLite connection")
        raw.execute("COMMIT")
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            raw.execute("BEGIN")  # the caller's rollback finds a transaction to end
            raise
        held.info["writes"] = True


def lock_key(name: str) -> int:
    """Derive the number under which PostgreSQL keeps a named advisory lock."""
    return int.from_bytes(hashlib.sha256(f"celora:{name}".encode()).digest()[:8], "big", signed=True)


def _sqlite_engine(url: URL, *, foreign_keys: bool, **options: Any) -> Engine:
    """Make an engine that begins its transactions itself, and never creates the file.

    The method is SQLAlchemy's recipe: ``isolation_level = None`` switches off the driver's late BEGIN, and this engine
    sends BEGIN itself.
    """
    existing = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(existing, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)
    from .queue.sqlite_hints import HintingCompiler  # noqa: PLC0415  (SQLAlchemy has loaded the dialect now)

    engine.dialect.statement_compiler = HintingCompiler

    @event.listens_for(engine, "connect")
    def _connected(raw: sqlite3.Connection, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        raw.isolation_level = None
        raw.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        mode = str(connection.get_execution_options().get(BEGIN, ""))
        connection.exec_driver_sql(f"BEGIN {mode}")
        connection.connection.info["writes"] = mode != ""

    @event.listens_for(engine, "before_cursor_execute")
    def _before(connection: Connection, _cursor: object, statement: str, *_: object) -> None:  # pyright: ignore[reportUnusedFunction]
        if statement.lstrip().upper().startswith(_WRITES):
            take_write_lock(connection)

    return engine
