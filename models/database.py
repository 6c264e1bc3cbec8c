"""The database: SQLite for one host, PostgreSQL for several; the same tables, the same tests.

Unusual: SQLite runs in WAL mode and a transaction that writes holds the write lock from its first write on. Where a
transaction has only read so far it is ended and begun again as ``BEGIN IMMEDIATE``, so that SQLite never answers
"database is locked" to a reader that turns writer; what was read before may then be old, exactly as under PostgreSQL's
READ COMMITTED. Engines are never shared with a forked child.
"""

import hashlib
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from ..settings.errors import CeloraError, DiskFullError, SettingsError, UnavailableError
from ..settings.production import require_database
from ..settings.settings import get_settings
from .forks import gate

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
MIGRATE = "Run `celora migrate`."

_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "SAVEPOINT", "CREATE", "ALTER", "DROP")
_BEGIN = "celora_begin"
_UNDEFINED = {"42P01", "42703", "3F000"}  # PostgreSQL: no such table, column, schema


class Database:
    """One database of the record.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://…``.

    Raises:
        SettingsError: The URL is none, or speaks of another kind of database.
        UnavailableError: The PostgreSQL driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _accepted(url)
        self._pid = os.getpid()
        self._inherited: list[Pool] = []  # a parent's connections: kept, since closing them would disturb the parent
        self._engine = new_engine(self.url)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    def __repr__(self) -> str:
        return f"Database({self.shown})"

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine; in a forked child one without the parent's connections."""
        if os.getpid() != self._pid:
            self.dispose()
        return self._engine

    @contextmanager
    def session(self) -> Generator[Session]:
        """A session that commits at its end and rolls back on any error.

        Raises:
            UnavailableError: The database can't be reached.
            SettingsError: Its tables are missing or older than this program.
        """
        with gate.inside(), self._translated(), self._sessions(bind=self.engine) as session, session.begin():
            yield session

    @contextmanager
    def transaction(self) -> Generator[Session]:
        """As ``session``, with SQLite's write lock from the start: what is read stays true until the commit."""
        with gate.inside(), self._translated(), self.engine.connect() as connection:
            connection.execution_options(**{_BEGIN: "IMMEDIATE"})
            with self._sessions(bind=connection) as session, session.begin():
                yield session

    def now(self, session: Session) -> datetime:
        """The database's clock."""
        return now(session)

    def advisory_lock(self, session: Session, name: str) -> bool:
        """Take the named lock until the transaction ends; False if somebody else holds it.

        SQLite has one lock for everything, the write lock: there the call waits for it and answers True.
        """
        if _on_sqlite(session.connection()):
            take_write_lock(session.connection())
            return True
        return bool(session.scalar(select(func.pg_try_advisory_xact_lock(lock_key(name)))))

    def dispose(self) -> None:
        """Close the connections; in a forked child leave the parent's alone and start afresh."""
        if os.getpid() == self._pid:
            self._engine.dispose()
            return
        self._inherited.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._pid = os.getpid()

    def migrate(self) -> None:
        """Bring the tables to this program's version; safe when several processes start at once."""
        from .migrations import schema  # noqa: PLC0415  (Alembic takes 0.15 s to import; only migrations need it)

        with self._translated():
            schema.upgrade(self.url)

    def require_schema(self) -> None:
        """Check that the tables are of this program's version.

        Raises:
            SettingsError: They are missing, older or newer; the hint says what to do.
        """
        from .migrations import schema  # noqa: PLC0415  (Alembic takes 0.15 s to import; only migrations need it)

        with self._translated(), self.engine.connect() as connection:
            schema.require(connection, self.shown)

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, InternalError, ProgrammingError) as error:
            told = _told(error, self.shown)
            if told is None:
                raise
            raise told from error


def now(session: Session) -> datetime:
    """The database's clock, timezone-aware UTC: the one clock of every lease."""
    if _on_sqlite(session.connection()):
        text = session.scalar(select(func.strftime("%Y-%m-%d %H:%M:%f", "now")))
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
    told: datetime | None = session.scalar(select(func.clock_timestamp()))
    if told is None:
        raise UnavailableError("the database did not tell the time.")
    return told.astimezone(UTC)


_databases: dict[tuple[int, str], Database] = {}


def get_database() -> Database:
    """The database of this process's settings; a forked child gets its own."""
    key = (os.getpid(), get_settings().database)
    if key not in _databases:
        require_database(get_settings())
        _databases[key] = Database(key[1])
    return _databases[key]


def lock_key(name: str) -> int:
    """The number by which PostgreSQL knows a named advisory lock."""
    return int.from_bytes(hashlib.sha256(f"celora:{name}".encode()).digest()[:8], "big", signed=True)


def take_write_lock(connection: Connection) -> None:
    """On SQLite: go on as a writer, waiting for the write lock; nothing may have been written before."""
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


def _accepted(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "CELORA_DATABASE_URL is no database URL.", hint="Use sqlite:////path/to/celora.db or postgresql://…"
        ) from error
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        if find_spec("psycopg") is None:
            raise UnavailableError(
                "the PostgreSQL driver is not installed.", hint='Run `pip install "celora[postgres]"`.'
            )
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    raise SettingsError(
        f"the record can't live in {parsed.render_as_string(hide_password=True)}.",
        hint="Set CELORA_DATABASE_URL to a SQLite file (sqlite:////path/to/celora.db) or to postgresql://…",
    )


def new_engine(url: URL, *, foreign_keys: bool = True, **options: Any) -> Engine:
    """An engine for either database; ``foreign_keys`` and the waiting times are ours, other options SQLAlchemy's."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, foreign_keys=foreign_keys, **options)
    waits = {"connect_timeout": CONNECT_TIMEOUT_S, "keepalives_idle": 10, "keepalives_interval": 5}
    waits |= {"keepalives_count": 3, "tcp_user_timeout": BUSY_TIMEOUT_S * 1000}
    # a process that is frozen inside a transaction must not hold its row from the reaper for ever
    waits |= {"options": f"-c idle_in_transaction_session_timeout={BUSY_TIMEOUT_S}s"}
    given = {"application_name": "celora", **waits, **url.query}  # what the URL says wins
    return create_engine(url.set(query={}), pool_pre_ping=True, connect_args=given, **options)


def _sqlite_engine(url: URL, *, foreign_keys: bool, **options: Any) -> Engine:
    """An engine that begins its transactions itself, and never makes the file.

    SQLAlchemy's recipe: the driver's own, late BEGIN is switched off (``isolation_level = None``) and ours is sent.
    """
    existing = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(existing, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)

    @event.listens_for(engine, "connect")
    def _connected(raw: sqlite3.Connection, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        raw.isolation_level = None
        raw.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        mode = str(connection.get_execution_options().get(_BEGIN, ""))
        connection.exec_driver_sql(f"BEGIN {mode}")
        connection.connection.info["writes"] = mode != ""

    @event.listens_for(engine, "before_cursor_execute")
    def _before(connection: Connection, _cursor: object, statement: str, *_: object) -> None:  # pyright: ignore[reportUnusedFunction]
        if statement.lstrip().upper().startswith(_WRITES):
            take_write_lock(connection)

    return engine


def _on_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _told(error: DBAPIError, shown: str) -> CeloraError | None:
    """The error in a sentence, if it is one of availability, space or schema."""
    cause = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state in _UNDEFINED or cause.startswith(("no such table", "no such column")):
        return SettingsError(f"the record at {shown} lacks tables of this version ({cause}).", hint=MIGRATE)
    if isinstance(error, ProgrammingError):
        return None
    if shown.startswith("sqlite") and not _file_of(shown).exists():
        return SettingsError(f"there is no record at {shown} yet.", hint=MIGRATE)
    if state == "53100" or "disk is full" in cause:
        return DiskFullError(f"the record at {shown} has no space left ({cause}).", hint="Free space there.")
    return UnavailableError(f"the record at {shown} can't be reached: {cause}.", hint=_remedy(shown))


def _remedy(shown: str) -> str:
    if shown.startswith("sqlite"):
        return f"Look at the folder {_file_of(shown).parent}, or set CELORA_DATABASE_URL."
    return "Start PostgreSQL, or set CELORA_DATABASE_URL to where it runs."


def _file_of(shown: str) -> Path:
    return Path(make_url(shown).database or "")
