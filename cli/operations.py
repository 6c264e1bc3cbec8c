"""Defines ``pause``, ``resume`` and ``retry`` for a job, and ``drain``, ``cordon`` and ``uncordon`` for a worker."""

from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..models.views import JobDetail
from .access import Server, jobs_at
from .jobs import JobId
from .open_record import record
from .options import REPEATED, value_of
from .output import Json, print_json, say

WorkerName = Annotated[str, typer.Argument(metavar="WORKER", help="The worker's name, or the beginning of it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field that is to be different; may be given several times."),
]


def pause(job_id: JobId, *, server: Server = None, as_json: Json = False) -> None:
    """Take a job off its GPU until `celora resume`; what runs of it writes a checkpoint first.

    Example: `celora pause 019a…`
    """
    with jobs_at(server) as jobs:
        chosen = jobs.whole_id(job_id)
        answer = jobs.pause(chosen)
        job = jobs.detail(chosen)
    if as_json:
        print_json({"id": job.id, "answer": answer, "status": job.status})
        return
    words = {
        "paused": f"is paused. Let it go on: celora resume {job.id}",
        "pausing": f"is pausing; its worker writes a checkpoint first. Let it go on: celora resume {job.id}",
        "cancelling": "is being cancelled, and is not paused.",
        "final": f"had ended before; it is {job.status}.",
    }
    say(f"Job {job.id} {words[answer]}")


def resume(
    job_id: JobId,
    *,
    budget: Annotated[
        float | None, typer.Option(help="A new budget for a job that has used its own.", show_default=False)
    ] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Let a paused job go on from its last checkpoint, at the front of its queue.

    Example: `celora resume 019a… --budget 20`
    """
    with jobs_at(server) as jobs:
        chosen = jobs.whole_id(job_id)
        ended = jobs.resume(chosen, budget)
        job = jobs.detail(chosen)
    if as_json:
        print_json({"id": job.id, "resumed": ended, "status": job.status})
    elif ended:
        say(f"Job {job.id} goes on.")
    else:
        say(f"Job {job.id} is not paused; it is {job.status}.")


def retry(
    job_id: JobId,
    *,
    changes: Set = None,
    new_id: Annotated[str | None, typer.Option("--id", help="An id of your own for the new job.")] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Try a failed or cancelled job again, as a new job that goes on from its last good checkpoint.

    A field that changes what is trained (the learning rate, the dataset) makes the new job start from the beginning.

    Example: `celora retry 019a… --set time_limit_minutes=600`
    """
    with jobs_at(server) as jobs:
        before = jobs.detail(job_id)
        chosen = jobs.retry(before.id, _fields(changes or []), new_id)
        job = jobs.detail(chosen)
    if as_json:
        print_json({"id": chosen, "retry_of": before.id, "resume_of": job.resume_of, "stage": job.stage})
        return
    say(chosen)
    say(_goes_on(before, job))
    say(f"Follow it: celora status {chosen}   celora logs {chosen} -f")


def drain(worker: WorkerName, *, as_json: Json = False) -> None:
    """Ask a worker to leave: its job writes a checkpoint and goes on elsewhere.

    It stays away until it is started again: with `celora up` or `celora node`, or by its service manager.

    Example: `celora drain h100-0@gpu-box`
    """
    from ..services import workers  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    answer = workers.drain(worker)
    if as_json:
        print_json({"worker": worker, "answer": answer})
    elif answer == "draining":
        say(f"Worker {worker} drains: its job is handed back with a checkpoint, then it leaves.")
    else:
        say(f"Worker {worker} is offline already.")


def cordon(
    worker: WorkerName,
    *,
    note: Annotated[str, typer.Option(help="Why, for the others.")] = "",
    as_json: Json = False,
) -> None:
    """Give a worker no more work until `celora uncordon`; what it runs it ends.

    Example: `celora cordon h100-0@gpu-box --note "Ada needs the card until Friday"`
    """
    from ..services import workers  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    name = workers.cordon(worker, note)
    if as_json:
        print_json({"worker": name, "cordoned": True, "note": note})
    else:
        say(f"Worker {name} takes no more work. Let it: celora uncordon {name}")


def uncordon(worker: WorkerName, *, as_json: Json = False) -> None:
    """Give a worker work again; one that its device's errors made unhealthy is trusted once more.

    Example: `celora uncordon h100-0@gpu-box`
    """
    from ..services import workers  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    left = workers.uncordon(worker)
    if as_json:
        print_json({"worker": worker, "cordoned": False, "obstacle": left})
    else:
        say(f"Worker {worker} takes work again." if not left else f"Worker {worker} takes no work yet: {left}.")


def _fields(words: list[str]) -> dict[str, Any]:
    """Parse the values of ``--set`` by field; a field that holds several values may come several times."""
    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(f"--set {word!r} has no value.", hint="Write --set FIELD=VALUE.")
        given.setdefault(name.strip().replace("-", "_"), []).append(value)
    return {name: value_of(name, values if name in REPEATED else values[-1]) for name, values in given.items()}


def _goes_on(before: JobDetail, job: JobDetail) -> str:
    """Describe the results of the old job that the new job reuses, a line each."""
    lines = [f"It tries {before.id} again, which was {before.status} in {before.stage}."]
    if not job.resume_of:
        lines.append(
            "It starts from the beginning: "
            + ("the old one had prepared no data." if job.stage == "prepare" and not before.prepared else
               "a field that was changed changes what is trained.")
        )  # fmt: skip
    elif job.stage == "evaluate":
        lines.append("Its training is done: the old one's adapter is evaluated and published.")
    elif before.checkpoint_step:
        lines.append(f"It keeps the prepared data, and trains from the checkpoint of step {before.checkpoint_step}.")
    else:
        lines.append("It keeps the prepared data, and trains from the first step: there is no checkpoint.")
    return "\n".join(lines)
