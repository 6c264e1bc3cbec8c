"""Commands that carry or show the installation: ``up``, ``node``, ``workers``, ``queues``, ``migrate``."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import typer

from ..models import history
from ..models.database import get_database
from ..settings.errors import SettingsError
from ..settings.settings import get_settings
from .output import Json, console, print_json, size, table
from .record import record


@contextmanager
def until_interrupted() -> Generator[None]:
    """Make Ctrl-C and a request to end (SIGTERM, a closed terminal) one and the same ``KeyboardInterrupt``, once.

    What comes after the first is ignored: by then everything is being stopped in order, and half of that would leave
    processes behind.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(_number: int, _frame: Any) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up() -> None:
    """Run the whole system on this machine, in the foreground, until Ctrl-C.

    Broker, control worker, prep worker, a worker for every GPU, beat, and Flower where it is installed. Other programs
    find it through `CELORA_HOME/celora.env`.

    Example: `celora up`
    """
    from ..workers.node import Installation  # noqa: PLC0415  (Celery takes a third of a second to import)

    with until_interrupted():
        try:
            with Installation() as installation:
                typer.echo("\n".join(installation.describe()))
                typer.echo("ready; Ctrl-C stops everything")
                installation.wait(_never)
        except KeyboardInterrupt:
            typer.echo("stopped")


def node() -> None:
    """Run this machine's workers, in the foreground, until Ctrl-C: one per GPU, and one that prepares data.

    The broker, the record and the artifacts are those of the settings; `celora up` on the main machine runs them.

    Example: `CELORA_BROKER_URL=redis://:password@main:6379/0 CELORA_DATABASE_URL=postgresql://… celora node`
    """
    from ..workers.node import Node  # noqa: PLC0415  (Celery takes a third of a second to import)

    settings = get_settings()
    if not settings.broker_url:
        raise SettingsError(
            "celora node needs a broker to take its work from.",
            hint="Set CELORA_BROKER_URL, or run `celora up`, which brings its own.",
        )
    get_database().require_schema()
    here = Node(settings)
    with until_interrupted():
        try:
            here.start()
            here.ready(get_database())
            typer.echo("\n".join([*here.lines, "ready; Ctrl-C stops everything"]))
            here.watch(_never)
        except KeyboardInterrupt:
            typer.echo("stopping; trainers write a checkpoint first")
        finally:
            here.stop()


def workers(*, as_json: Json = False) -> None:
    """List the workers: type, device, what each runs, and why one takes no work.

    Example: `celora workers`
    """
    with record().session() as session:
        rows = history.workers(session, get_settings().foreign_memory_bytes)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("No worker has registered. Start some: celora up, or celora node on a GPU machine.")
        return
    columns = ["worker", "kind", "type", "device", "memory", "status", "runs", "last seen", ""]
    console().print(
        table(
            columns,
            [
                (
                    row["id"],
                    row["kind"],
                    row["gpu_type"],
                    row["device_index"],
                    size(row["memory_bytes"]),
                    row["status"],
                    ", ".join(map(str, row["jobs"])),
                    row["last_seen_at"],
                    row["obstacle"] if row["obstacle"] != row["status"] else "",
                )
                for row in rows
            ],
        )
    )


def queues(*, as_json: Json = False) -> None:
    """Show for each queue what waits, what runs, and how many slots are free.

    Example: `celora queues --json`
    """
    with record().session() as session:
        rows = history.queues(session)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("No worker reads a queue and nothing waits. Start some: celora up, or celora node on a GPU machine.")
        return
    columns = ["queue", "waiting", "running", "free"]
    console().print(table(columns, [(row["queue"], row["waiting"], row["running"], row["free"]) for row in rows]))


def migrate() -> None:
    """Bring the record's tables to this version of celora; safe to run again.

    Example: `celora migrate`
    """
    database = get_database()
    database.migrate()
    typer.echo(f"{database.shown} is up to date.")


def _never() -> bool:
    return False
