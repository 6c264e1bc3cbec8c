"""Defines ``celora host``, which steers the trainer host of a worker: the process that keeps a base between jobs."""

import typer

from .open_record import record
from .operations import WorkerName
from .output import Json, print_json, say

app = typer.Typer(
    no_args_is_help=True,
    help="The process of a worker that keeps a base between jobs.\n\nExample: `celora host restart h100-0@gpu-box`",
)


@app.callback()
def group() -> None:
    """Make ``restart`` a command of the group, and not the group itself."""


@app.command("restart")
def restart(worker: WorkerName, *, as_json: Json = False) -> None:
    """End a worker's trainer host; what runs in it writes a checkpoint and goes on, in a new host.

    Example: `celora host restart h100-0@gpu-box`
    """
    from ..services import workers  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    answer = workers.restart_host(worker)
    if as_json:
        print_json({"worker": worker, "answer": answer})
    elif answer == "restarting":
        say(f"Worker {worker} ends its trainer host: its jobs write a checkpoint and go on, in a new host.")
    else:
        say(f"Worker {worker} is offline, and its trainer host with it.")
