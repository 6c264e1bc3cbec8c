"""Opens the record for commands; a SQLite record is made at its first use."""

from pathlib import Path

from sqlalchemy import text

from ..errors import StorageError
from ..models.database import Database, get_database
from ..models.scope.scope import Scope
from ..settings.permissions import restrict_home
from ..settings.settings import Settings, get_settings
from ..storage.file_lock import locked_if_free


def record() -> Database:
    """Open the database of the settings in force; make a SQLite file that is missing or has no tables yet.

    Another command may be making the record at this moment: the file exists before its tables, and the migration waits.
    """
    database = get_database()
    if database.url.get_backend_name() == "sqlite" and _is_new(database):
        settings = get_settings()
        _refuse_second(database, settings)
        restrict_home(settings)
        Path(database.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        database.migrate()
    return database


def _refuse_second(database: Database, settings: Settings) -> None:
    """Refuse to make a record while a running installation holds one whose file is gone."""
    if not (settings.home / "celora.env").exists() or database.url.database != str(settings.home / "celora.db"):
        return
    with locked_if_free(settings.home / "up.lock") as lock:
        running = lock is None
    if running:
        raise StorageError(
            f"the record {database.shown} is gone, and an installation runs in {settings.home}.",
            hint="Put the file back and the workers take it up; or stop `celora up` and start it, to begin a new one.",
        )


def _is_new(database: Database) -> bool:
    if not Path(database.url.database or "").exists():
        return True
    with database.session(Scope.everything) as session:
        return not session.scalar(text("SELECT count(*) FROM sqlite_master"))
