"""Runs a trainer's request in a resident trainer host, with the interface of a trainer process (``process``).

The run is the job's alone: its events, its log, its requests to stop. The process is not: only a run that does not
answer in its grace ends the host, and a host that dies takes its neighbours along. The host's end is read from the file
of its ``ExitReport``, because the host is no child of the supervisor.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ...settings.redaction import redactor
from ...tuning.protocol import EvaluateRequest, TrainRequest
from ...tuning.trainer.host_admission import refusal
from ...tuning.trainer.host_messages import (
    Control,
    ExitReport,
    Final,
    Opening,
    Refused,
    Resident,
    exit_path,
    line_of,
    run_name,
)
from .hosts import HostConnection, HostPlace, drop_base, join
from .log_files import cap, size_of, tail_since

logger = logging.getLogger(__name__)

HostRequest = TrainRequest | EvaluateRequest
"""The requests of stages that a host carries."""
REPORT_S = 5.0
"""Seconds that the file about a host's end may take after the end of the connection."""
POLL_S = 0.05


class RefusedError(Exception):
    """The host does not carry the run; the run gets a process of its own."""


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """How a run may join the host of its worker.

    Attributes:
        place: The host's place.
        opening: The facts about the job that its request does not hold.
        between_tenants: True where runs of several tenants may be inside at one time.
        are_ours: Returns whether runs belong to the job's tenant, by their names (``host_messages.run_name``).
    """

    place: HostPlace
    opening: Opening
    between_tenants: bool = False
    are_ours: Callable[[Sequence[str]], bool] = lambda runs: not runs

    def admits(self, inside: Sequence[str]) -> bool:
        """Return whether the run may join a host with these runs; one of several slots lets strangers wait itself."""
        return self.place.slots > 1 or self.between_tenants or self.are_ours(inside)


class HostedTrainer:
    """Runs one request in a host.

    Args:
        connection: A connection to the host.
        request: The request that the host carries out.
        opening: The facts about the job.
        log: The job's log; the host appends to it.
        host_log: The host's log.
        log_bytes: Size above which the middle of the job's log is cut out; 0: never.
    """

    def __init__(
        self,
        connection: HostConnection,
        request: HostRequest,
        opening: Opening,
        log: Path,
        *,
        host_log: Path,
        exits: Path,
        log_bytes: int,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._connection, self._buffer = connection, connection.rest
        self._job, self._attempt = request.job, request.attempt
        self._log, self._log_bytes = log, log_bytes
        self._host_log, self._host_log_from = host_log, size_of(host_log)
        self._exits = exits
        self._process = _pidfd(connection.greeting.pid)
        self._final: Final | None = None
        self._report: ExitReport | None = None
        self._heard = False
        self._code: int | None = None
        with log.open("ab") as output:
            self._send_opening(opening, output.fileno())
        self._send(request)

    @property
    def name(self) -> str:
        """The run's name in the messages of the host."""
        return run_name(self._job, self._attempt)

    @property
    def generation(self) -> str:
        """The host's generation: its runs share one process, and one crash."""
        return self._connection.greeting.generation

    @property
    def resident(self) -> Resident | None:
        """The base that the host holds after the run."""
        return self._final.resident if self._final else None

    @property
    def report(self) -> ExitReport | None:
        """The end of the host; None where the host lives, or ended after the run."""
        return self._report

    def events(self, timeout_s: float) -> list[dict[str, Any]] | None:
        """Return the events that arrive within the time; None after the last event.

        Raises:
            RefusedError: The host does not carry the run.
        """
        cap(self._log, self._log_bytes)
        if self._final is not None:
            return None
        lines = self._lines(timeout_s)
        if lines is None:
            self._refuse_what_never_began()
            return None
        return self._events_of(lines)

    def kept(self, checkpoint: Mapping[str, Any]) -> None:
        """Confirm that an event's checkpoint is uploaded, or that its upload failed; the run may wait for that."""
        self._control("kept", int(checkpoint["step"]))

    def stop(self) -> None:
        """Ask the host to checkpoint the run at its next step boundary and to end it."""
        self._control("drain")

    def abandon(self) -> None:
        """Ask the host to end a run whose results nobody wants any more."""
        self._control("cancel")

    def dump_stacks(self) -> None:
        """Make the host write the stacks of all its threads to the job's log."""
        self._control("stacks")

    def kill(self) -> None:
        """Kill the host, because the run does not answer; the reason is kept for the host's other runs."""
        if self._final is not None or self._process < 0:
            return
        logger.warning("the run %s does not answer; its trainer host is killed", self.name)
        with contextlib.suppress(OSError):
            self._why().write_text("a run did not answer in its grace", encoding="utf-8")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self, grace_s: float = REPORT_S) -> int:
        """Wait for the run's end, close the connection, and return the run's exit code.

        A run that goes on after the grace loses its supervisor: the host checkpoints and forgets the run. A second call
        returns the code of the first.
        """
        if self._code is None:
            self._code = self._close(grace_s)
        return self._code

    def _close(self, grace_s: float) -> int:
        deadline = time.monotonic() + grace_s
        with contextlib.suppress(RefusedError):
            while self._final is None and self._report is None and time.monotonic() < deadline:
                if self.events(POLL_S) is None and self._final is None:
                    self._report = self._read_report()
        self._connection.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
        if self._final is not None:
            return self._final.exit
        report = self._report
        if report is None:
            return -signal.SIGTERM
        return -report.signal if report.signal is not None else int(report.code or 0)

    def why(self) -> str:
        """Return the reason for which a supervisor ended the host, in words; empty where there is none."""
        try:
            return self._why().read_text(encoding="utf-8")
        except OSError:
            return ""

    def host_tail(self) -> str:
        """Return the end of what the host printed since the run began, without secrets.

        The text of a host with several runs inside may be another tenant's: only the classification of the crash reads
        it then.
        """
        return tail_since(self._host_log, self._host_log_from)

    def _refuse_what_never_began(self) -> None:
        """Raise where the host ended in order between its greeting and the run's admission."""
        if self._heard:
            return
        self._report = self._read_report()
        if self._report.code == 0 and self.name not in self._report.runs:
            raise RefusedError("the host ended before the run began")

    def _events_of(self, lines: list[bytes]) -> list[dict[str, Any]] | None:
        hide, found = redactor(), list[dict[str, Any]]()
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                self._heard = True
                found.append(hide.data(message))
            elif "exit" in message:
                self._final = Final.model_validate(message)
            elif "refused" in message:
                raise RefusedError(Refused.model_validate(message).message)
        return found

    def _lines(self, timeout_s: float) -> list[bytes] | None:
        """Read the lines that arrive within the time; None after the last one."""
        *lines, self._buffer = self._buffer.split(b"\n")
        if lines:
            return [line for line in lines if line]
        connected = self._connection.socket
        if not select.select([connected], [], [], timeout_s)[0]:
            return []
        try:
            chunk = connected.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            chunk = b""
        if not chunk:
            return None
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [line for line in lines if line]

    def _read_report(self) -> ExitReport:
        """Read the end of the host, which its parent writes a moment after the end of the connection."""
        path, deadline = exit_path(self._exits, self.generation), time.monotonic() + REPORT_S
        while time.monotonic() < deadline:
            try:
                return ExitReport.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                time.sleep(POLL_S)
        logger.warning("nothing tells how the trainer host %s ended", self.generation)
        # a pidfd is readable at the process's end
        lives = self._process >= 0 and not select.select([self._process], [], [], 0)[0]
        code, number = (1, None) if lives else (None, signal.SIGKILL)
        return ExitReport(generation=self.generation, code=code, signal=number, runs=[self.name])

    def _why(self) -> Path:
        return exit_path(self._exits, self.generation).with_suffix(".why")

    def _control(self, op: str, step: int = 0) -> None:
        if self._final is None:
            self._send(Control.model_validate({"op": op, "job": self._job, "attempt": self._attempt, "step": step}))

    def _send_opening(self, opening: Opening, log: int) -> None:
        with contextlib.suppress(OSError):  # the host has ended; ``events`` finds out
            socket.send_fds(self._connection.socket, [line_of(opening)], [log])

    def _send(self, message: BaseModel) -> None:
        with contextlib.suppress(OSError):
            self._connection.socket.sendall(line_of(message))


def start(
    plan: HostPlan, request: BaseModel, log: Path, log_bytes: int, hurried: Callable[[], bool]
) -> HostedTrainer | None:
    """Start a request in the host of its worker.

    Args:
        plan: The host, and the facts about the job.
        request: The request.
        log: The job's log.
        log_bytes: Size above which the middle of the log is cut out; 0: never.
        hurried: Returns whether the run has to stop already.

    Returns:
        The run; None where the run gets a process of its own, for which an empty host has freed its base.
    """
    if not isinstance(request, HostRequest):
        return None
    place, opening = plan.place, plan.opening
    refused = refusal(opening, request, device=place.device)
    connection = None if refused else join(place, request.threads, hurried)
    if connection is not None and plan.admits(connection.greeting.runs):
        return HostedTrainer(
            connection, request, opening, log, host_log=place.log, exits=place.socket, log_bytes=log_bytes
        )
    if connection is not None:
        connection.close()
    if refused:
        logger.info("%s: %s", run_name(request.job, request.attempt), refused.message)
    drop_base(place)
    return None


def _pidfd(pid: int) -> int:
    """Open a process; -1 where it has ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
