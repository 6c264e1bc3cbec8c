"""Runs a trainer process for a job and turns its events into the record's.

Every way in which a run can end is one exception, so that whoever carries the stage says in one place what follows:
``Drained`` (stopped after a checkpoint, the worker is leaving), ``Cancelled`` (a person ended the job, its process
group is gone), ``Lost`` (somebody else owns the job), ``TrainerError`` (the trainer's own error, or its death).
"""

import logging
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..settings.errors import CeloraError, LimitError
from ..tuning.failures import kind_of_log
from ..tuning.limits import leftovers
from ..tuning.protocol import PrepareRequest
from .environment import of_this_user
from .lease import Lease
from .logs import log_tail
from .process import LOG_BYTES, TrainerProcess
from .pulse import DUMP_S, Pulse, oom_kills

logger = logging.getLogger(__name__)

POLL_S = 0.2
Handler = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may take.

    Attributes:
        runs_s: Seconds until it is stopped at a step boundary; None: no limit.
        words: That limit, as it is to be told.
        stall_s: Seconds without progress until it counts as stalled, at least; None: never.
        log_bytes: Size above which its log loses its middle; 0: never.
    """

    runs_s: float | None = None
    words: str = ""
    stall_s: float | None = None
    log_bytes: int = LOG_BYTES


NO_LIMITS = Limits()


class Drained(Exception):  # noqa: N818  (an ending, not an error)
    """The work stopped at a step boundary, its checkpoint committed."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        super().__init__(f"drained at step {step}")


class Cancelled(Exception):  # noqa: N818  (an ending, not an error)
    """A person ended the job and nothing of it runs any more."""


class Lost(Exception):  # noqa: N818  (an ending, not an error)
    """Somebody else owns the job now."""


class TrainerError(CeloraError):
    """The trainer said why it failed, or died without a word."""

    def __init__(self, error: dict[str, Any], tail: str = "") -> None:
        self.error = {**error, "log_tail": tail}
        super().__init__(str(error.get("message", "the trainer failed")), hint=str(error.get("hint", "")))


def supervise(
    request: BaseModel,
    *,
    log: Path,
    environment: dict[str, str],
    lease: Lease,
    on_event: Handler,
    draining: Callable[[], bool],
    cancelling: Callable[[], bool],
    grace_s: float,
    limits: Limits = NO_LIMITS,
    started: Callable[[TrainerProcess], None] = lambda _trainer: None,
) -> dict[str, Any]:
    """Run one request under a lease and return its result.

    Args:
        request: One of the requests of ``tuning.protocol``.
        log: The job's log; the trainer's output is appended.
        environment: Secrets and limits for the trainer.
        lease: Held on the job.
        on_event: Called with each event but the last.
        draining: Whether the worker is to leave.
        cancelling: Whether the job is to end, beside the lease's own flag.
        grace_s: Seconds between asking the trainer to leave and killing it.
        limits: How long it may take, and how long it may be silent.
        started: Given the process, to answer its checkpoints (``TrainerProcess.kept``) when they are put away.

    Raises:
        Drained, Cancelled, Lost, TrainerError: As their docstrings say; the trainer's process group is gone then.
    """
    trainer = TrainerProcess(request, log, environment, limits.log_bytes)
    watch = _Watch(trainer, lease, draining, cancelling, grace_s, limits)
    last: dict[str, Any] | None = None
    phase = ""
    try:
        started(trainer)
        while (events := trainer.events(POLL_S)) is not None:
            for event in events:
                watch.heard(event)
                if event["event"] in ("done", "failed", "drained"):
                    last = event
                else:
                    phase = event.get("phase", phase)
                    on_event(event)
            watch.look()
    except BaseException:
        trainer.kill()
        raise
    finally:
        code = trainer.close()
        _tidy(request)
    return watch.outcome(last, code, log, phase)


class _Watch:
    """Decides, at each look, whether the trainer may go on, and at the end how it ended."""

    def __init__(  # noqa: PLR0917  (the supervisor's own parts, passed on)
        self,
        trainer: TrainerProcess,
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
        self._pulse = Pulse(limits.stall_s, self._began)
        self._silent_s = 0.0
        self._kills = oom_kills()

    def heard(self, event: dict[str, Any]) -> None:
        self._pulse.heard(event, time.monotonic())

    def look(self) -> None:
        if self.lease.lost:
            self._asked = "lost"
            self.trainer.kill()
        elif self._deadline is None:
            self._ask()
        elif time.monotonic() > self._deadline:
            logger.warning("job %s: the trainer outstayed its %.0f s of grace", self.lease.job_id, self._grace_s)
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
        elif self._pulse.stalled(now):
            self._asked, self._silent_s = "stalled", self._pulse.silent_s(now)
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
            raise TrainerError(_stalled(self._silent_s, phase), log_tail(log))
        if last and last["event"] == "failed":
            raise TrainerError(last["error"], log_tail(log))
        step = last.get("step") if last and last["event"] == "drained" else None
        if self._asked == "time_limit":
            raise TrainerError(_out_of_time(self.limits, step), log_tail(log))
        if self._asked == "drain" or (last and last["event"] == "drained"):
            raise Drained(step)
        tail = log_tail(log)
        raise TrainerError(_death(code, phase, tail, oom_kills() - self._kills), tail)


def _stalled(silent_s: float, phase: str) -> dict[str, Any]:
    return {
        "code": "stalled",
        "message": f"the trainer gave no sign of progress for {silent_s / 60:.1f} min (while it did: "
        f"{phase or 'start'}); the stacks of all its threads are in the job's log.",
        "hint": "",
    }


def _out_of_time(limits: Limits, step: int | None) -> dict[str, Any]:
    reached = f"; its checkpoint of step {step} is kept" if step else ""
    return {
        "code": "time_limit",
        "message": f"the job used up {limits.words or 'its time'}{reached}.",
        "hint": "",
    }


_LIMITS = {
    signal.SIGXCPU: ("used up its CPU time", "an operator may raise CELORA_PREPARE_CPU_S"),
    signal.SIGALRM: ("was stuck in one step that nothing could interrupt", "look at the chat template and at the rows"),
    signal.SIGABRT: ("ran out of the memory it may take", "an operator may raise CELORA_PREPARE_MEMORY_BYTES"),
}
"""What the kernel's limits look like from outside (tuning/limits.py), and what to do."""

_NO_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|std::bad_alloc|Cannot allocate memory")


def _death(code: int, phase: str, tail: str, oom_kills: int = 0) -> dict[str, Any]:
    if -code in _LIMITS and (code != -signal.SIGABRT or _NO_MEMORY.search(tail)):
        what, advice = _LIMITS[signal.Signals(-code)]
        return {
            "code": LimitError.code,
            "message": f"the trainer {what} and was ended (while it did: {phase or 'start'}).",
            "hint": f"Split or mend the dataset; {advice}.",
        }
    if code == -signal.SIGKILL and oom_kills > 0:
        return {
            "code": "host_out_of_memory",
            "message": f"the kernel ended the trainer because the machine ran out of memory (while it did: "
            f"{phase or 'start'}).",
            "hint": "",
        }
    if found := kind_of_log(tail):
        return {
            "code": found.code,
            "message": f"the trainer died (while it did: {phase or 'start'}): {_last_line(tail)}",
            "hint": "",
        }
    if code < 0:
        return {
            "code": "killed",
            "message": f"the trainer was ended by signal {-code} without a word.",
            "hint": "Signal 9 without a kill by the kernel's memory limit: somebody ended it, or look at the kernel's "
            "log."
            if code == -signal.SIGKILL
            else "",
        }
    return {
        "code": "internal",
        "message": f"the trainer left with exit code {code} and said neither done nor failed.",
        "hint": "The end of the job's log says more.",
    }


def _last_line(tail: str) -> str:
    return next((line.strip()[:300] for line in reversed(tail.splitlines()) if line.strip()), "nothing was said")


def run_once(request: BaseModel, on_event: Handler, *, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run one request in the foreground, without a job: what ``celora generate`` and ``celora bases add`` do.

    Raises:
        TrainerError: With the trainer's own error.
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
    finally:
        code = trainer.close()
        _tidy(request)
    if last and last["event"] == "done":
        return dict(last["result"])
    raise TrainerError(last["error"] if last else _death(code, phase, log_tail(log)), log_tail(log))


def _tidy(request: BaseModel) -> None:
    """Remove the half-written folder of a trainer that the kernel ended; it is gone by itself in any other case."""
    if isinstance(request, PrepareRequest):
        for folder in leftovers(Path(request.out_dir)):
            shutil.rmtree(folder, ignore_errors=True)
