"""Supervises a trainer process: passes its events on, and stops it at a cancel, a drain, a lost lease or a limit.

Each ending of a run but success is one exception, so that the caller handles every ending in one place: ``Drained``
(stopped after a checkpoint, at a shutdown or a pause), ``Cancelled`` (a person ended the job, and its process group is
gone), ``Lost`` (another worker owns the job), ``TrainerError`` (the trainer's own error, or its death).
"""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ...errors import CeloraError, DeviceError
from ...tuning.memory_kills import oom_kills
from ...tuning.protocol import EvaluateResult, PrepareRequest, PrepareResult, TrainResult
from ...tuning.resource_limits import leftovers
from ..lease import Lease
from . import hosted
from .deaths import GENERATION, Ending, death, host_death, out_of_time, stalled
from .environment import of_this_user
from .forked import WarmStart
from .hosted import HostedTrainer, HostPlan, RefusedError
from .hosts import drop_base
from .log_files import log_tail
from .process import LOG_BYTES, TrainerProcess
from .shared_device import SharedDevice
from .watchdog import DUMP_S, StallDetector

logger = logging.getLogger(__name__)

POLL_S = 0.2
Result = TypeVar("Result", PrepareResult, TrainResult, EvaluateResult)
"""The result of a stage that runs a trainer."""
Handler = Callable[[dict[str, Any]], None]
Trainer = TrainerProcess | HostedTrainer
"""A run under supervision: a process of its own, or a run in a trainer host."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a run.

    Attributes:
        runs_s: Seconds until the run is stopped at a step boundary; None: no limit.
        words: The limit ``runs_s`` in words, for the error message.
        stall_s: Least seconds without progress after which the run counts as stalled; None: never.
        log_bytes: Size above which the middle of the log is cut out; 0: never.
        warm_s: Seconds for which a process that has imported the trainer's libraries waits for the next run, which it
            then starts; 0: each run starts a new process.
        host: The trainer host that the run may join; None where the worker has none.
    """

    runs_s: float | None = None
    words: str = ""
    stall_s: float | None = None
    log_bytes: int = LOG_BYTES
    warm_s: float = 0.0
    host: HostPlan | None = None


NO_LIMITS = Limits()


class Drained(Exception):  # noqa: N818  (an ending, not an error)
    """The run stopped at a step boundary, its checkpoint committed."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        super().__init__(f"drained at step {step}")


class Cancelled(Exception):  # noqa: N818  (an ending, not an error)
    """A person ended the job, and none of its processes runs any more."""


class Lost(Exception):  # noqa: N818  (an ending, not an error)
    """Another worker owns the job now."""


class TrainerError(CeloraError):
    """The trainer reported an error, or died without a report."""

    def __init__(self, error: dict[str, Any], tail: str = "") -> None:
        self.error = {**error, "log_tail": tail}
        super().__init__(str(error.get("message", "the trainer failed")), hint=str(error.get("hint", "")))


def supervise(
    request: BaseModel,
    answer: type[Result],
    *,
    log: Path,
    environment: dict[str, str],
    lease: Lease,
    on_event: Handler,
    draining: Callable[[], bool],
    cancelling: Callable[[], bool],
    grace_s: float,
    limits: Limits = NO_LIMITS,
    started: Callable[[Trainer], None] = lambda _trainer: None,
) -> Result:
    """Run one request under a lease and return its result.

    Args:
        request: One of the requests of ``tuning.protocol``.
        answer: The model of its result.
        log: The job's log; the trainer's output is appended.
        environment: Secrets and limits for the trainer.
        lease: The lease of the job.
        on_event: Called with each event but the last.
        draining: Returns whether the worker has to shut down.
        cancelling: Returns whether the job has to end, beside the lease's own flag.
        grace_s: Seconds between the request that the trainer exits and its kill.
        limits: The time that the run may take, the time without progress, and how it may start.
        started: Called with the trainer, to confirm its checkpoints (``kept``) once they are uploaded; again where a
            host refuses the run, which then gets a process of its own.

    Raises:
        Drained, Cancelled, Lost, TrainerError: As their docstrings say; the trainer's process group is gone then, or
            the run has left its host.
    """

    def hurried() -> bool:
        return lease.lost or lease.cancel_requested or lease.pause_requested or draining() or cancelling()

    plan = limits.host
    device = SharedDevice(plan.place, on_event, lambda: _raise_if_ended(lease, cancelling, hurried)) if plan else None
    warm = WarmStart(limits.warm_s, hurried) if limits.warm_s else None

    def start_process() -> TrainerProcess:
        if device is not None:
            device.take_alone()
        return TrainerProcess(request, log, environment, limits.log_bytes, warm=warm)

    def start_trainer() -> Trainer:
        if plan is None or device is None:
            return start_process()
        device.share()
        return hosted.start(plan, request, log, limits.log_bytes, hurried) or start_process()

    with device or nullcontext():
        watch = _Watch(start_trainer(), lease, draining, cancelling, grace_s, limits)
        handle = on_event if device is None else device.handle
        return answer.model_validate(_watched(watch, request, log, handle, start_process, started))


def _watched(  # noqa: PLR0917  (the supervisor's own parts, passed on)
    watch: "_Watch",
    request: BaseModel,
    log: Path,
    on_event: Handler,
    start_process: Callable[[], TrainerProcess],
    started: Callable[[Trainer], None],
) -> dict[str, Any]:
    """Follow a trainer to its end and return its result; raise every other ending."""
    last: dict[str, Any] | None = None
    phase = ""
    try:
        started(watch.trainer)
        while (events := watch.events(start_process, started)) is not None:
            for event in events:
                watch.note_event(event)
                if event["event"] in ("done", "failed", "drained"):
                    last = event
                else:
                    phase = event.get("phase", phase)
                    on_event(event)
            watch.look()
    except BaseException:
        watch.trainer.abandon()
        raise
    finally:
        code = watch.trainer.close()
        _tidy(request)
    return watch.outcome(last, code, log, phase)


def _raise_if_ended(lease: Lease, cancelling: Callable[[], bool], hurried: Callable[[], bool]) -> None:
    """Raise the ending of a run that waits for its device and must not begin any more."""
    if lease.lost:
        raise Lost
    if lease.cancel_requested or cancelling():
        raise Cancelled
    if hurried():
        raise Drained(None)


class _Watch:
    """Decides at each check if the trainer may go on, and derives the ending from its exit."""

    def __init__(  # noqa: PLR0917  (the supervisor's own parts, passed on)
        self,
        trainer: Trainer,
        lease: Lease,
        draining: Callable[[], bool],
        cancelling: Callable[[], bool],
        grace_s: float,
        limits: Limits,
    ) -> None:
        self.trainer, self.lease, self.grace_s, self.limits = trainer, lease, grace_s, limits
        self._draining, self._cancelling = draining, cancelling
        self._asked: str = ""
        self._deadline: float | None = None
        self._began = time.monotonic()
        self._stall = StallDetector(limits.stall_s, self._began)
        self._silent_s = 0.0
        self._kills = oom_kills()

    def events(
        self, start_process: Callable[[], TrainerProcess], started: Callable[[Trainer], None]
    ) -> list[dict[str, Any]] | None:
        """Return the trainer's next events; start a process for a run that its host refuses."""
        try:
            return self.trainer.events(POLL_S)
        except RefusedError as refused:
            logger.info("job %s: %s", self.lease.claim.job_id, refused)
            self.trainer.close(0)
            if self.limits.host is not None:
                drop_base(self.limits.host.place)  # the process needs the device
            self.trainer = start_process()
            self._stall = StallDetector(self.limits.stall_s, time.monotonic())
            started(self.trainer)
            if self._asked == "lost":
                self.trainer.abandon()
            elif self._asked:
                self.trainer.stop()
            return []

    def note_event(self, event: dict[str, Any]) -> None:
        self._stall.note_event(event, time.monotonic())

    def look(self) -> None:
        if self.lease.lost and self._asked != "lost":
            self._asked, self._deadline = "lost", time.monotonic() + self.grace_s
            self.trainer.abandon()
        elif self._deadline is None:
            self._ask()
        elif time.monotonic() > self._deadline:
            logger.warning("job %s: the trainer outstayed its %.0f s of grace", self.lease.claim.job_id, self._grace_s)
            self.trainer.kill()

    @property
    def _grace_s(self) -> float:
        return DUMP_S if self._asked == "stalled" else self.grace_s

    def _ask(self) -> None:
        now = time.monotonic()
        if self.lease.cancel_requested or self._cancelling():
            self._asked = "cancel"
        elif self.lease.pause_requested or self._draining():
            self._asked = "drain"
        elif self.limits.runs_s is not None and now - self._began > self.limits.runs_s:
            self._asked = "time_limit"
        elif self._stall.is_stalled(now):
            self._asked, self._silent_s = "stalled", self._stall.silent_s(now)
        if self._asked:
            self._deadline = now + self._grace_s
            if self._asked == "stalled":
                self.trainer.dump_stacks()
            else:
                self.trainer.stop()

    def outcome(self, last: dict[str, Any] | None, code: int, log: Path, phase: str) -> dict[str, Any]:
        if self.lease.lost or self._asked == "lost":
            raise Lost
        if last and last["event"] == "done":
            return dict(last["result"])
        if self._asked == "cancel":
            raise Cancelled
        if self._asked == "stalled":
            raise TrainerError(stalled(self._silent_s, phase), log_tail(log))
        if last and last["event"] == "failed":
            raise TrainerError(self._located(last["error"]), log_tail(log))
        step = last.get("step") if last and last["event"] == "drained" else None
        if self._asked == "time_limit":
            raise TrainerError(out_of_time(self.limits.words, step), log_tail(log))
        if self._asked == "drain" or (last and last["event"] == "drained"):
            raise Drained(step)
        error = self._death(code, log, phase)
        raise TrainerError(error, log_tail(log))

    def _located(self, error: Ending) -> Ending:
        """Add the host's generation to an error of the device, which counts once for all runs of the host."""
        if not isinstance(self.trainer, HostedTrainer) or error.get("code") != DeviceError.code:
            return error
        return {**error, "facts": {**(error.get("facts") or {}), GENERATION: self.trainer.generation}}

    def _death(self, code: int, log: Path, phase: str) -> Ending:
        """Describe the end of a trainer that reported none; copy the last words of its host into the job's log."""
        if not isinstance(self.trainer, HostedTrainer) or (report := self.trainer.report) is None:
            return death(code, phase, log_tail(log), oom_kills() - self._kills)
        printed, plan = self.trainer.host_tail(), self.limits.host
        if printed and plan is not None and plan.are_ours(report.runs):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"--- the last lines of the trainer host's log ---\n{printed}\n")
        return host_death(report, self.trainer.name, phase, f"{log_tail(log)}\n{printed}", why=self.trainer.why())


def run_once(
    request: BaseModel,
    on_event: Handler,
    *,
    log: Path,
    environment: dict[str, str],
    wanted: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Run one request in the foreground, without a job, for ``celora generate`` and ``celora bases add``.

    Args:
        request: The request.
        on_event: Called with each event but the last.
        log: The log to which the trainer's output is appended.
        environment: Variables of the trainer's environment.
        wanted: Returns False when nobody wants the result any more; the trainer is then ended.

    Raises:
        TrainerError: The request failed; the exception holds the trainer's own error.
        Cancelled: The result is not wanted any more.
    """
    trainer = TrainerProcess(request, log, {**of_this_user(), **environment})
    last: dict[str, Any] | None = None
    phase = ""
    try:
        while (events := trainer.events(POLL_S)) is not None:
            for event in events:
                if event["event"] in ("done", "failed"):
                    last = event
                else:
                    phase = event.get("phase", phase)
                    on_event(event)
            if not wanted():
                trainer.abandon()
                raise Cancelled
    finally:
        code = trainer.close()
        _tidy(request)
    if last and last["event"] == "done":
        return dict(last["result"])
    raise TrainerError(last["error"] if last else death(code, phase, log_tail(log)), log_tail(log))


def _tidy(request: BaseModel) -> None:
    """Remove the half-written folder of a trainer that the kernel ended; in any other case the trainer removes it."""
    if isinstance(request, PrepareRequest):
        for folder in leftovers(Path(request.out_dir)):
            shutil.rmtree(folder, ignore_errors=True)
