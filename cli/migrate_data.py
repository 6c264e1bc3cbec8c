"""``celora migrate-data``: the whole record into a new database, from SQLite to PostgreSQL."""

from typing import Annotated

import typer

from ..models import transfer
from ..models.database import Database

Source = Annotated[str, typer.Argument(metavar="FROM", help="The record's URL, for example sqlite:////path/celora.db.")]
Target = Annotated[str, typer.Argument(metavar="TO", help="An empty database: postgresql://user@host/celora.")]


def migrate_data(source: Source, target: Target) -> None:
    """Copy the whole record into an empty database: every table, counted, all or nothing.

    Stop celora before. The artifacts stay where they are; set CELORA_DATABASE_URL to the new database afterwards.

    Example: `celora migrate-data sqlite:////home/me/.celora/celora.db postgresql://celora@localhost/celora`
    """
    old, new = Database(source), Database(target)
    try:
        rows = transfer.copy(old, new, lambda table, count: typer.echo(f"{table:<14} {count}"))
    finally:
        old.dispose()
        new.dispose()
    typer.echo(f"{rows} rows are in {new.shown}; set CELORA_DATABASE_URL to it")
