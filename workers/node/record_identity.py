"""Stores the identity of the record's file at an installation's start, so that a replacement can be detected."""

from pathlib import Path

from ...models.database import Database
from ...settings.settings import Settings
from .broker_server import write_private

REMEMBERED = "record.identity"


def remember_record(settings: Settings, database: Database) -> None:
    """Write the identity of the record's file into the home; the record of a database server has none."""
    identity = _identity(database)
    if identity:
        write_private(settings.home / REMEMBERED, identity)


def forget_record(settings: Settings) -> None:
    """Remove the stored identity, because the installation stops."""
    (settings.home / REMEMBERED).unlink(missing_ok=True)


def replaced_since_start(settings: Settings) -> bool:
    """Return whether the record's file is another one than at the start of the running installation."""
    try:
        first = (settings.home / REMEMBERED).read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    database = Database(settings.database)
    try:
        now = _identity(database)
    finally:
        database.dispose()
    return bool(now) and now != first


def _identity(database: Database) -> str:
    """Return the device and inode of the record's file; empty where there is no file."""
    if database.url.get_backend_name() != "sqlite" or not database.url.database:
        return ""
    try:
        found = Path(str(database.url.database)).stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"
