"""Migrates a database's tables to this program's version, and refuses tables of another version.

One process migrates at a time: PostgreSQL by an advisory lock, SQLite by its write lock. The whole upgrade is one
transaction in both, so that a crash in the middle leaves the version that was there.
"""

import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, NullPool, func, select

from ...errors import SettingsError, UnavailableError
from ..engine import BUSY_TIMEOUT_S, MIGRATE, lock_key, new_engine, take_write_lock
from ..tables import Table

_one_at_a_time = threading.Lock()
"""Alembic keeps the running migration in globals of its module: two threads would overwrite each other's state."""


def upgrade(url: URL, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade the tables; make the SQLite file and its folder where they are missing.

    Returns:
        The versions of the tables before and after.
    """
    if url.get_backend_name() == "sqlite":
        _make_file(Path(str(url.database)))
    with _one_at_a_time, _alone(url) as connection:
        before = revision_of(connection)
        command.upgrade(_config(connection), revision)
        return before, revision_of(connection)


def downgrade(url: URL, revision: str) -> None:
    """Downgrade the tables to a revision; ``base`` removes them all."""
    with _one_at_a_time, _alone(url) as connection:
        command.downgrade(_config(connection), revision)


def revision_of(connection: Connection) -> str | None:
    """Return the version of the tables; None where there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def require(connection: Connection, shown: str) -> None:
    """Check that the tables are of this program's version.

    Raises:
        SettingsError: They are missing, older or newer.
    """
    found = revision_of(connection)
    script = ScriptDirectory.from_config(_config(connection))
    if found == script.get_current_head():
        return
    if found is None:
        raise SettingsError(f"the record at {shown} has no tables yet.", hint=MIGRATE)
    if found in {known.revision for known in script.walk_revisions()}:
        raise SettingsError(f"the record at {shown} is older than this celora (version {found}).", hint=MIGRATE)
    raise SettingsError(
        f"the record at {shown} is newer than this celora (version {found}).",
        hint="Install the celora version that the other machines run.",
    )


def _make_file(path: Path) -> None:
    """Make a SQLite file in WAL mode, which is permanent: readers and the writer do not wait for each other.

    The switch to WAL fails at once while another process reads or writes, under any time-out; hence the loop.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as raw:
                raw.execute("PRAGMA journal_mode=WAL")
        except (OSError, sqlite3.OperationalError) as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                hint = "Look at its folder, or set CELORA_DATABASE_URL."
                raise UnavailableError(f"the record at {path} can't be made: {error}.", hint=hint) from error
            time.sleep(0.05)
        else:
            return


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = Table.metadata
    return config


@contextmanager
def _alone(url: URL) -> Generator[Connection]:
    """Open a transaction that excludes other migrations; commit it at the end."""
    options: dict[str, Any] = {"poolclass": NullPool}
    if url.get_backend_name() == "sqlite":
        options["foreign_keys"] = False  # a table that is changed is copied and dropped; its references stay
    engine = new_engine(url, **options)
    with engine.begin() as connection:
        if url.get_backend_name() == "sqlite":
            take_write_lock(connection)
        else:
            connection.execute(select(func.pg_advisory_xact_lock(lock_key("migrate"))))
        yield connection
