"""Opens the record's database: SQLite for one host, PostgreSQL for several; the same tables, the same tests.

This module translates every error of the driver into a sentence with a hint. Unusual: a connection is never shared
with a forked child, and a fork waits until no other thread is inside a transaction (``engine.fork_barrier``).
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, Engine, Pool, func, make_url, select
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import Session, sessionmaker

from ..errors import CeloraError, RecordFullError, SettingsError, UnavailableError
from ..settings.production import require_database
from ..settings.settings import get_settings
from ..storage.disk_space import disk_full, has_filled
from .engine import BEGIN, MIGRATE, fork_barrier, lock_key, new_engine, on_sqlite, take_write_lock
from .scope.scope import Scope
from .scope.session import SCOPE, ScopedSession

NUL = "(0x00)"
"""A part of the words with which the driver refuses to send NUL to PostgreSQL."""
_UNDEFINED = {"42P01", "42703", "3F000"}  # PostgreSQL: no such table, column, schema
# built once: SQLAlchemy keeps the cache key of a statement with the statement, and a clock is read for each write
_SQLITE_CLOCK = select(func.strftime("%Y-%m-%d %H:%M:%f", "now"))
_POSTGRES_CLOCK = select(func.clock_timestamp())


class Database:
    """One database of the record.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://…``.

    Raises:
        SettingsError: The URL is invalid, or names another kind of database.
        UnavailableError: The PostgreSQL driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _accepted(url)
        self._pid = os.getpid()
        self._inherited: list[Pool] = []  # a parent's connections: kept, since closing them would disturb the parent
        self._engine = new_engine(self.url)
        self._sessions = sessionmaker(self._engine, class_=ScopedSession, expire_on_commit=False)

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
    def session(self, scope: Scope) -> Generator[Session]:
        """Open a session that commits at its end and rolls back on any error.

        Args:
            scope: The rows that the session may reach.

        Raises:
            UnavailableError: The database can't be reached.
            SettingsError: Its tables are missing or older than this program.
        """
        new = self._sessions(bind=self.engine, info={SCOPE: scope})
        with fork_barrier.inside(), self._translated(), new as session, session.begin():
            yield session

    @contextmanager
    def transaction(self, scope: Scope) -> Generator[Session]:
        """Open a session that holds SQLite's write lock from its start: rows it reads stay valid until the commit."""
        with fork_barrier.inside(), self._translated(), self.engine.connect() as connection:
            connection.execution_options(**{BEGIN: "IMMEDIATE"})
            with self._sessions(bind=connection, info={SCOPE: scope}) as session, session.begin():
                yield session

    def now(self, session: Session) -> datetime:
        """Return the time of the database's clock."""
        return now(session)

    def advisory_lock(self, session: Session, name: str) -> bool:
        """Take the named lock until the transaction ends; False if another session holds it.

        SQLite has one lock for everything, the write lock: there the call waits for it and returns True.
        """
        if on_sqlite(session.connection()):
            take_write_lock(session.connection())
            return True
        return bool(session.scalar(select(func.pg_try_advisory_xact_lock(lock_key(name)))))

    def dispose(self) -> None:
        """Close the connections; a forked child leaves its parent's connections open and opens new ones."""
        if os.getpid() == self._pid:
            self._engine.dispose()
            return
        self._inherited.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._pid = os.getpid()

    def migrate(self) -> tuple[str | None, str | None]:
        """Migrate the tables to this program's version; safe when several processes start at once.

        Returns:
            The versions of the tables before and after; None where there were none.
        """
        from .migrations import schema  # noqa: PLC0415  (Alembic takes 0.15 s to import; only migrations need it)

        with self._translated():
            return schema.upgrade(self.url)

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
            translated = _translate(error, self.shown)
            if translated is None:
                raise
            raise translated from error
        except DataError as error:
            if NUL not in str(error.orig):
                raise
            raise _unstorable() from error
        except UnicodeEncodeError as error:
            raise _unstorable() from error


def now(session: Session) -> datetime:
    """Return the time of the database's clock, timezone-aware UTC: every lease is measured by this clock."""
    if session.get_bind().dialect.name == "sqlite":
        text = session.scalar(_SQLITE_CLOCK)
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
    found: datetime | None = session.scalar(_POSTGRES_CLOCK)
    if found is None:
        raise UnavailableError("the database did not tell the time.")
    return found.astimezone(UTC)


_databases: dict[tuple[int, str], Database] = {}


def get_database() -> Database:
    """Return the database of this process's settings; a forked child gets a new one."""
    key = (os.getpid(), get_settings().database)
    if key not in _databases:
        require_database(get_settings())
        _databases[key] = Database(key[1])
    return _databases[key]


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


def _translate(error: DBAPIError, shown: str) -> CeloraError | None:
    """Translate an error of availability, space or schema; None for any other one."""
    cause = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state in _UNDEFINED or cause.startswith(("no such table", "no such column")):
        return SettingsError(f"the record at {shown} lacks tables of this version ({cause}).", hint=MIGRATE)
    if isinstance(error, ProgrammingError):
        return None
    if shown.startswith("sqlite") and not _file_of(shown).exists():
        return SettingsError(f"there is no record at {shown} yet.", hint=MIGRATE)
    if state == "53100":
        return RecordFullError(f"the record at {shown} has no space left ({cause}).", hint="Free space there.")
    if shown.startswith("sqlite") and has_filled(_file_of(shown), cause):
        return disk_full(_file_of(shown), what="the record", error=error.orig, kind=RecordFullError)
    return UnavailableError(f"the record at {shown} can't be reached: {cause}.", hint=_remedy(shown))


def _unstorable() -> SettingsError:
    """Make the refusal of a name or an id that no row can have; texts that a column keeps are made storable."""
    return SettingsError("a name or an id holds NUL or half of a surrogate pair, which no text can hold.")


def _remedy(shown: str) -> str:
    if shown.startswith("sqlite"):
        return f"Look at the folder {_file_of(shown).parent}, or set CELORA_DATABASE_URL."
    return "Start PostgreSQL, or set CELORA_DATABASE_URL to where it runs."


def _file_of(shown: str) -> Path:
    return Path(make_url(shown).database or "")
