"""The record as commands open it: on one machine it is made at the first use."""

from pathlib import Path

from ..models.database import Database, get_database


def record() -> Database:
    """The database of the settings in force; a SQLite file that does not exist yet is made, with its tables."""
    database = get_database()
    if database.url.get_backend_name() == "sqlite" and not Path(database.url.database or "").exists():
        Path(database.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        database.migrate()
    return database
