"""The record as commands open it: on one machine it is made at the first use."""

from pathlib import Path

from sqlalchemy import text

from ..models.database import Database, get_database


def record() -> Database:
    """The database of the settings in force; a SQLite file that is not there, or has no tables yet, is given them.

    Another command may be making it at this moment: the file is there before its tables, and the migration waits.
    """
    database = get_database()
    if database.url.get_backend_name() == "sqlite" and _is_new(database):
        Path(database.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        database.migrate()
    return database


def _is_new(database: Database) -> bool:
    if not Path(database.url.database or "").exists():
        return True
    with database.session() as session:
        return not session.scalar(text("SELECT count(*) FROM sqlite_master"))
