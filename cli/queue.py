"""Defines ``queue``, ``why`` and ``set``: who waits and why, and how a waiting job is queued."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ..models.states import JobClass
from .access import Server, jobs_at
from .jobs import JobId
from .output import ABSENT, Json, console, duration, print_json, say, size, table


def queue(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's jobs.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The first so many.")] = 50,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Show who waits, the next to start first: place, expected start, and the reason.

    Example: `celora queue --tenant team-a`
    """
    with jobs_at(server) as jobs:
        entries = jobs.queue(tenant=tenant, limit=limit)
    if as_json:
        print_json([entry.plain() for entry in entries])
        return
    if not entries:
        say("Nobody waits.")
        return
    columns = ("", "id", "tenant", "stage", "gpu", "class", "priority", "waited", "expected start", "reason")
    rows = [
        (
            entry.position or ABSENT, entry.id, entry.tenant, entry.stage, entry.gpu, entry.job_class, entry.priority,
            duration(entry.waited_s), expected(entry.earliest_at, entry.latest_at), entry.reason,
        )
        for entry in entries
    ]  # fmt: skip
    console().print(table(columns, rows))


def why(job_id: JobId, *, server: Server = None, as_json: Json = False) -> None:
    """Explain why a job waits: the steps in which its turn is decided, number by number.

    Example: `celora why 019a…`
    """
    with jobs_at(server) as jobs:
        found = jobs.why(jobs.whole_id(job_id))
    if as_json:
        print_json(found.plain())
        return
    entry = found.entry
    say(f"Job {entry.id} of tenant {entry.tenant} waits for {entry.stage} on {entry.gpu}: {entry.reason}")
    if entry.position is not None:
        ahead = ", ".join(f"{count} of {name}" for name, count in entry.ahead.items()) or "none"
        say(f"It is number {entry.position}; jobs ahead: {ahead}.")
        say(f"Expected start: {expected(entry.earliest_at, entry.latest_at)}.")
    for number, step in enumerate(found.steps, 1):
        say(f"  {number}. {step.rule:<10} {step.words}")
    if found.chosen:
        say(_chosen(found.chosen))


def set_(
    job_id: JobId,
    *,
    priority: Annotated[int | None, typer.Option(help="Higher runs sooner, within the tenant.")] = None,
    job_class: Annotated[JobClass | None, typer.Option("--class", help="Its class.")] = None,
    gpu: Annotated[str | None, typer.Option(help="A GPU type, or auto.")] = None,
    budget: Annotated[float | None, typer.Option(help="Money that it may cost.")] = None,
    labels: Annotated[str | None, typer.Option(help="Labels of its worker, by commas; '' for none.")] = None,
    as_json: Json = False,
) -> None:
    """Change how a job is queued; a running one keeps its GPU type and labels.

    Example: `celora set 019a… --priority 5`
    """
    from ..services.queue.changes import JobChanges, change_job  # noqa: PLC0415  (Celery takes its time to import)
    from .local_jobs import whole_id  # noqa: PLC0415  (a command for a server loads no SQL)

    chosen = whole_id(job_id)
    names = None if labels is None else labels.split(",")
    changes = JobChanges(priority=priority, job_class=job_class, gpu=gpu, budget=budget, labels=names)
    changed = change_job(chosen, changes)
    if as_json:
        print_json({"id": chosen, "changed": changed})
        return
    told = ", ".join(f"{name} {_written(value)}" for name, value in changed.items())
    say(f"Job {chosen} has {told} now. Its place: celora why {chosen}")


def expected(earliest: datetime | None, latest: datetime | None) -> str:
    """Format the range of an expected start as times from now."""
    if earliest is None or latest is None:
        return ABSENT
    now = datetime.now(UTC)
    low_s, high_s = (max(0.0, (each - now).total_seconds()) for each in (earliest, latest))
    return "now" if high_s < 1 else f"in {duration(low_s)} to {duration(high_s)}"


def _written(value: Any) -> str:
    return ",".join(value) or "none" if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _chosen(chosen: Mapping[str, Any]) -> str:
    """Say what ``auto`` took at the last release, of which types, and which cheaper ones had no free slot."""
    need_bytes = chosen["need_bytes"]
    need = f" for the {size(need_bytes)} that the job needs" if need_bytes else ""
    passed = ", ".join(chosen["passed"])
    busy = f"; cheaper, but not free: {passed}" if passed else ", the cheapest"
    return f"auto took {chosen['gpu_type']} last{busy} (of {', '.join(chosen['fitting'])}{need})."
