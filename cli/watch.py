"""Follows a job to its end: bars on a terminal, one line per change elsewhere.

The module reads the job's state and nothing else, so that an unavailable broker or worker shows as a job that makes no
progress, with the reason.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..models.states import Stage, Status
from ..models.views import JobDetail
from .output import duration, progress_console

POLL_S = 0.5
QUIET_S = 5.0
"""Seconds between two lines that only report a later step."""


class View(Protocol):
    """Something that shows a job's state again and again."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, job: JobDetail) -> None:
        """Show the state of now."""
        ...


def follow(
    job_id: str,
    *,
    read: Callable[[str], JobDetail],
    out: Console | None = None,
    alive: Callable[[], None] = lambda: None,
) -> JobDetail:
    """Show a job's progress until it has ended, and return its last state.

    Args:
        job_id: The job.
        read: Reads the job's state of now.
        out: Where to show it; standard error unless given.
        alive: Called at each look; raises when waiting has no sense any more.
    """
    out = out or progress_console()
    with Bars(out) if out.is_terminal else Lines(out) as view:
        while True:
            job = read(job_id)
            view.show(job)
            if job.ended:
                return job
            alive()
            time.sleep(POLL_S)


class Lines:
    """A line when the job moves to another stage or status, and every few seconds while it trains."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._place: tuple[str | None, ...] = ()
        self._step: int | None = None
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, job: JobDetail) -> None:
        """Print a line if there are news."""
        place = (job.status, job.stage, job.wait_reason, job.phase)
        now = time.monotonic()
        moved = place != self._place
        stepped = job.step != self._step and now - self._told_at >= QUIET_S
        if moved or stepped:
            self._place, self._step, self._told_at = place, job.step, now
            words = [time.strftime("%H:%M:%S"), f"{job.stage:<8}", f"{job.status:<9}", facts(job)]
            self._out.print("  ".join(words).rstrip(), markup=False)


class Bars:
    """A bar per stage, as Rich draws them."""

    def __init__(self, out: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=out,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, job: JobDetail) -> None:
        """Move the bar of the job's stage; earlier ones are full."""
        stage = str(job.stage)
        if stage not in self._tasks:
            for earlier in self._tasks.values():
                self._bars.update(earlier, total=1, completed=1)
                self._bars.stop_task(earlier)
            self._tasks[stage] = self._bars.add_task(stage, total=None, facts="")
        task, training = self._tasks[stage], stage == Stage.TRAIN
        if training and job.steps:
            self._bars.update(task, total=job.steps, completed=job.step or 0)
        self._bars.update(task, facts=f"{job.status}  {facts(job)}".rstrip())
        if job.status == Status.COMPLETED:
            self._bars.update(task, total=1, completed=1)


def facts(job: JobDetail) -> str:
    """What there is to say about a job besides its stage and status: why it waits, how far it is, how it ended."""
    if job.status == Status.FAILED and job.error:
        return job.failure.message
    if job.status in (Status.PENDING, Status.QUEUED):
        return str(job.wait_reason or "")
    if job.status != Status.RUNNING:
        return ""
    if job.stage != Stage.TRAIN or not job.step:
        return str(job.phase or "")
    words = [f"step {job.step}/{job.steps or '?'}"]
    if job.loss is not None:
        words.append(f"loss {job.loss:.4f}")
    if job.tokens_per_s:
        words.append(f"{job.tokens_per_s:.0f} tokens/s")
    if job.eta_s is not None:
        words.append(f"{duration(job.eta_s)} left")
    return "  ".join(words)
