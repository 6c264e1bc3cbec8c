"""Defines ``celora run-job``, which runs one job in the foreground, for clusters that queue jobs themselves."""

import signal
import threading
from typing import Annotated, Any

import typer

from ..models.database import get_database
from ..models.states import Stage
from ..settings.settings import get_settings
from ..workers.requirements import require_training
from .jobs import JobId


def run_job(
    job_id: JobId, *, gpu: Annotated[int, typer.Option(help="Use the machine's GPU with this number.")] = 0
) -> None:
    """Carry one job in this process, from where it stands to its end, and say by the exit code how it ended.

    0: completed. 64 to 77: it failed, by the kind of error. 75: this process was asked to leave (SIGTERM), the job was
    given back with a checkpoint; run it again. 130: it was cancelled.

    Example: `celora run-job 019a…`
    """
    from ..tasks.evaluate import evaluate  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..tasks.prepare import prepare  # noqa: PLC0415  (the same)
    from ..tasks.publish import publish  # noqa: PLC0415  (the same)
    from ..tasks.train import train  # noqa: PLC0415  (the same)
    from ..workers import gpu_option, logging  # noqa: PLC0415  (the same)
    from ..workers.lifecycle import foreground  # noqa: PLC0415  (the same)

    logging.set_up()
    leaving = threading.Event()

    def leave(_number: int, _frame: Any) -> None:
        leaving.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    require_training()
    database = get_database()
    database.require_schema()
    device = gpu_option.pin(gpu, alone=True)
    tasks = {Stage.PREPARE: prepare, Stage.TRAIN: train, Stage.EVALUATE: evaluate, Stage.PUBLISH: publish}
    code = foreground.run(database, get_settings(), job_id, device=device, leaving=leaving, tasks=tasks)
    raise typer.Exit(code)
