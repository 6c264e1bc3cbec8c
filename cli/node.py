"""Defines the commands that run or show the installation: ``up``, ``node``, ``workers``, ``queues``, ``migrate``."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..models import queries
from ..models.database import get_database
from ..models.queue.labels import label_text
from ..models.scope.scope import Scope
from ..models.tenants.audit import current_actor, record_audit
from ..models.tenants.limits import check_tenant_name
from ..models.workers import Resident
from ..settings.settings import Settings, get_settings
from .open_record import record
from .output import Json, console, print_json, say, size, table


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

    Broker, control worker, prep worker, a worker for every GPU, beat, and the HTTP API and Flower where they are
    installed. Other programs find it through `CELORA_HOME/celora.env`.

    Example: `celora up`
    """
    from ..workers.node.installation import Installation  # noqa: PLC0415  (Celery takes a third of a second to import)

    with until_interrupted():
        try:
            with Installation() as installation:
                say("\n".join(installation.describe()))
                say("ready; Ctrl-C stops everything")
                installation.wait(_never)
        except KeyboardInterrupt:
            say("stopped")


def node(
    *,
    labels: Annotated[str | None, typer.Option(help="Names that its GPU workers carry, by commas.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Its GPU workers work for this tenant alone.")] = None,
) -> None:
    """Run this machine's workers, in the foreground, until Ctrl-C: one per GPU, and one that prepares data.

    The broker, the record and the artifacts are those of the settings; `celora up` on the main machine runs them.

    Example: `CELORA_BROKER_URL=redis://:password@main:6379/0 CELORA_DATABASE_URL=postgresql://… celora node`
    """
    from ..workers.node.node import Node  # noqa: PLC0415  (Celery takes a third of a second to import)

    settings = get_settings()
    if not settings.broker:
        raise SettingsError(
            "celora node needs a broker to take its work from.",
            hint="Set CELORA_BROKER_URL, or run `celora up`, which brings its own.",
        )
    get_database().require_schema()
    here = Node(_special(settings, labels, tenant))
    with until_interrupted():
        try:
            here.start()
            here.ready(get_database())
            say("\n".join([*here.lines, "ready; Ctrl-C stops everything"]))
            here.watch(_never)
        except KeyboardInterrupt:
            say("stopping; trainers write a checkpoint first")
        finally:
            here.stop()


def _special(settings: Settings, labels: str | None, tenant: str | None) -> Settings:
    """Return the settings with the labels and the tenant of the command line in place of their own."""
    changes: dict[str, str] = {}
    if labels is not None:
        changes["labels"] = label_text(labels.split(","))
    if tenant is not None:
        changes["reserved_for"] = check_tenant_name(tenant)
    return settings.model_copy(update=changes)


def workers(*, as_json: Json = False) -> None:
    """List the workers: type, device, what each runs, the base that it keeps, and why one takes no work.

    Example: `celora workers`
    """
    with record().session(Scope.everything) as session:
        rows = queries.workers(session, get_settings().foreign_memory_bytes)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No worker has registered. Start some: celora up, or celora node on a GPU machine.")
        return
    columns = ["worker", "kind", "type", "device", "memory", "status", "runs", "base in memory", "last seen", ""]
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
                    _host_words(Resident.read(row["resident"]) if row["status"] != "offline" else None),
                    row["last_seen_at"],
                    row["obstacle"] if row["obstacle"] != row["status"] else "",
                )
                for row in rows
            ],
        )
    )


def _host_words(host: Resident | None, now_s: float | None = None) -> str:
    """Describe a worker's trainer host in one cell: the base, the memory, the runs inside, the age of the host."""
    if host is None:
        return ""
    age_s = max(0.0, (time.time() if now_s is None else now_s) - host.started_at)
    runs = f"{host.runs} run{'' if host.runs == 1 else 's'}"
    return f"{host.base or 'none'}, {size(host.memory_bytes)}, {runs}, {age_s / 60:.0f} min"


def queues(*, as_json: Json = False) -> None:
    """Show for each queue what waits, what runs, and how many slots are free.

    Example: `celora queues --json`
    """
    with record().session(Scope.everything) as session:
        rows = queries.queues(session)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No worker reads a queue and nothing waits. Start some: celora up, or celora node on a GPU machine.")
        return
    columns = ["queue", "waiting", "running", "free"]
    console().print(table(columns, [(row["queue"], row["waiting"], row["running"], row["free"]) for row in rows]))


def migrate() -> None:
    """Bring the record's tables to this version of celora; safe to run again.

    Example: `celora migrate`
    """
    database = get_database()
    before, after = database.migrate()
    if before != after:
        with database.transaction(Scope.everything) as session:
            versions = ({"version": before}, {"version": after})
            record_audit(session, current_actor(), "record.migrate", database.shown, *versions, tenant=None)
    say(f"{database.shown} is up to date.")


def _never() -> bool:
    return False
