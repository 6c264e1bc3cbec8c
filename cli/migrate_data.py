"""Defines ``celora migrate-data``, which copies the whole record into a new database, from SQLite to PostgreSQL."""

from typing import Annotated

import typer

from ..errors import SettingsError
from ..models.database import Database
from ..models.migrations import copy_record
from .output import say

Source = Annotated[str, typer.Argument(metavar="FROM", help="The record's URL, for example sqlite:////path/celora.db.")]
Target = Annotated[str, typer.Argument(metavar="TO", help="An empty database: postgresql://user@host/celora.")]
Artifacts = Annotated[
    str | None,
    typer.Option(metavar="OLD=NEW", help="The artifacts were copied as well: their old root and the new one."),
]


def migrate_data(source: Source, target: Target, *, artifacts: Artifacts = None) -> None:
    """Copy the whole record into an empty database: every table, counted, all or nothing.

    Stop celora before. The artifacts stay where they are, or were copied before; set CELORA_DATABASE_URL (and
    CELORA_ARTIFACT_ROOT) to the new place afterwards.

    Example: `celora migrate-data sqlite:////home/me/.celora/celora.db postgresql://celora@localhost/celora`

    Example: `celora migrate-data FROM TO --artifacts file:///home/me/.celora/artifacts=s3://celora/artifacts`
    """
    roots = _roots(artifacts) if artifacts else None
    old, new = Database(source), Database(target)
    try:
        rows = copy_record.copy(old, new, lambda table, count: say(f"{table:<14} {count}"), roots=roots)
    finally:
        old.dispose()
        new.dispose()
    say(f"{rows} rows are in {new.shown}; set CELORA_DATABASE_URL to it")


def _roots(artifacts: str) -> tuple[str, str]:
    old, equals, new = artifacts.partition("=")
    if not equals or "://" not in old or "://" not in new:
        raise SettingsError(
            f"--artifacts {artifacts} names no two roots.", hint="Write file:///old/folder=s3://bucket/prefix."
        )
    return old.rstrip("/"), new.rstrip("/")
