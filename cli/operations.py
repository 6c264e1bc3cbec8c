"""Stopping and starting: ``pause``, ``resume``, ``retry`` a job; ``drain``, ``cordon``, ``uncordon`` a worker."""

from typing import Annotated, Any

import typer

from ..settings.errors import SettingsError
from .jobs import JobId, summary
from .options import REPEATED, value_of
from .output import Json, print_json
from .record import record

WorkerName = Annotated[str, typer.Argument(metavar="WORKER", help="The worker's name, or the beginning of it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field that is to be different; may be given several times."),
]


def pause(job_id: JobId, *, as_json: Json = False) -> None:
    """Take a job off its GPU until `celora resume`; what runs of it writes a checkpoint first.

    Example: `celora pause 019a…`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    answer = operations.pause(job_id)
    job = summary(job_id)
    if as_json:
        print_json({"id": job["id"], "answer": answer, "status": job["status"]})
        return
    words = {
        "paused": f"is paused. Let it go on: celora resume {job['id']}",
        "pausing": f"is pausing; its worker writes a checkpoint first. Let it go on: celora resume {job['id']}",
        "cancelling": "is being cancelled, and is not paused.",
        "final": f"had ended before; it is {job['status']}.",
    }
    typer.echo(f"Job {job['id']} {words[answer]}")


def resume(job_id: JobId, *, as_json: Json = False) -> None:
    """Let a paused job go on from its last checkpoint, at the front of its queue.

    Example: `celora resume 019a…`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    ended = operations.resume(job_id)
    job = summary(job_id)
    if as_json:
        print_json({"id": job["id"], "resumed": ended, "status": job["status"]})
    elif ended:
        typer.echo(f"Job {job['id']} goes on.")
    else:
        typer.echo(f"Job {job['id']} is not paused; it is {job['status']}.")


def retry(
    job_id: JobId,
    *,
    changes: Set = None,
    new_id: Annotated[str | None, typer.Option("--id", help="An id of your own for the new job.")] = None,
    as_json: Json = False,
) -> None:
    """Try a failed or cancelled job again, as a new job that goes on from its last good checkpoint.

    A field that changes what is trained (the learning rate, the dataset) makes the new job start from the beginning.

    Example: `celora retry 019a… --set time_limit_minutes=600`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    before = summary(job_id)
    chosen = operations.retry(job_id, _fields(changes or []), new_id=new_id)
    job = summary(chosen)
    if as_json:
        print_json({"id": chosen, "retry_of": before["id"], "resume_of": job["resume_of"], "stage": job["stage"]})
        return
    typer.echo(chosen)
    typer.echo(_goes_on(before, job))
    typer.echo(f"Follow it: celora status {chosen}   celora logs {chosen} -f")


def drain(worker: WorkerName, *, as_json: Json = False) -> None:
    """Ask a worker to leave: its job writes a checkpoint and goes on elsewhere.

    It stays away until it is started again: with `celora up` or `celora node`, or by its service manager.

    Example: `celora drain h100-0@gpu-box`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    answer = operations.drain(worker)
    if as_json:
        print_json({"worker": worker, "answer": answer})
    elif answer == "draining":
        typer.echo(f"Worker {worker} drains: its job is handed back with a checkpoint, then it leaves.")
    else:
        typer.echo(f"Worker {worker} is offline already.")


def cordon(
    worker: WorkerName,
    *,
    note: Annotated[str, typer.Option(help="Why, for the others.")] = "",
    as_json: Json = False,
) -> None:
    """Give a worker no more work until `celora uncordon`; what it runs it ends.

    Example: `celora cordon h100-0@gpu-box --note "Ada needs the card until Friday"`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    name = operations.cordon(worker, note)
    if as_json:
        print_json({"worker": name, "cordoned": True, "note": note})
    else:
        typer.echo(f"Worker {name} takes no more work. Let it: celora uncordon {name}")


def uncordon(worker: WorkerName, *, as_json: Json = False) -> None:
    """Give a worker work again; one that its device's errors made unhealthy is trusted once more.

    Example: `celora uncordon h100-0@gpu-box`
    """
    from ..tasks import operations  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    left = operations.uncordon(worker)
    if as_json:
        print_json({"worker": worker, "cordoned": False, "obstacle": left})
    else:
        typer.echo(f"Worker {worker} takes work again." if not left else f"Worker {worker} takes no work yet: {left}.")


def _fields(words: list[str]) -> dict[str, Any]:
    """What ``--set`` gave, by field; a field that holds several values may come several times."""
    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(f"--set {word!r} has no value.", hint="Write --set FIELD=VALUE.")
        given.setdefault(name.strip().replace("-", "_"), []).append(value)
    return {name: value_of(name, values if name in REPEATED else values[-1]) for name, values in given.items()}


def _goes_on(before: dict[str, Any], job: dict[str, Any]) -> str:
    """What the new job takes over from the old one, a line each."""
    lines = [f"It tries {before['id']} again, which was {before['status']} in {before['stage']}."]
    if not job["resume_of"]:
        lines.append(
            "It starts from the beginning: "
            + ("the old one had prepared no data." if job["stage"] == "prepare" and not before["prepared"] else
               "a field that was changed changes what is trained.")
        )  # fmt: skip
    elif job["stage"] == "evaluate":
        lines.append("Its training is done: the old one's adapter is evaluated and published.")
    elif before["checkpoint_step"]:
        lines.append(f"It keeps the prepared data, and trains from the checkpoint of step {before['checkpoint_step']}.")
    else:
        lines.append("It keeps the prepared data, and trains from the first step: there is no checkpoint.")
    return "\n".join(lines)
