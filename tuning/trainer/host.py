"""Takes the connections of a resident trainer host, and carries their runs one after another on the main thread.

The messages are those of ``host_messages.py``. Each connection has a thread, which reads its lines to the end: a
request, controls, and the end of file that means that the supervisor is gone. Runs wait in the order of their arrival.
A run that its supervisor has left gets its grace for a checkpoint; a run that is still there afterwards ends the
process, since nothing else ends a step that never returns.
"""

import faulthandler
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pydantic import ValidationError

from ...storage.unix_socket import is_of_this_user
from ..protocol import EXIT_DRAINED, EvaluateRequest, GenerateRequest, Request, TrainRequest, event_line, parse_request
from .events import JobEvents
from .host_admission import refused
from .host_connection import READ_S, Connection
from .host_messages import (
    EXIT_BROKEN,
    WAITING,
    WAITING_S,
    Control,
    DropBase,
    Final,
    Greeting,
    Leave,
    Opening,
    Refused,
    parse_first,
    run_name,
)
from .parent_watch import GRACE_S, SPARE_S, JobWatch
from .stages import refuse_line

ACCEPT_AGAIN_S = 0.1
Carried = TrainRequest | EvaluateRequest | GenerateRequest
"""The requests that a host carries."""


class HostedRun:
    """One run, from its admission to its end.

    Args:
        request: The request.
        connection: The connection of its supervisor.
        log: Descriptor of the job's log, which this object owns.

    Attributes:
        watch: The supervisor's requests for the run.
        events: Writes the run's events to the connection.
        over: Set when the run has ended.
    """

    def __init__(self, request: Carried, connection: Connection, log: int) -> None:
        self.request, self.connection, self.log = request, connection, log
        self.name = run_name(request.job, request.attempt)
        self.watch = JobWatch()
        self.over = threading.Event()
        self._log_in_use = threading.Lock()
        waits = isinstance(request, TrainRequest) and request.acknowledged
        self.events = JobEvents(
            connection,
            request.job,
            request.attempt,
            *([self.watch.acks.wait] if waits else []),
            interrupt=self.watch.stop,
        )

    @property
    def grace_s(self) -> float:
        """Return the seconds that the run has for its end when its supervisor is gone."""
        return self.request.grace_s if isinstance(self.request, TrainRequest) else GRACE_S

    def take_control(self, line: bytes) -> None:
        """Follow a control line; ignore it where it is none, or names another job or attempt."""
        try:
            control = Control.model_validate_json(line)
        except ValidationError:
            return
        if run_name(control.job, control.attempt) != self.name:
            return
        match control.op:
            case "drain" | "cancel":
                self.watch.stop.set()
            case "kept":
                self.watch.acks.confirm(control.step)
            case "stacks":
                with self._log_in_use:
                    if not self.over.is_set():
                        faulthandler.dump_traceback(file=self.log, all_threads=True)

    def finish(self, final: Final | Refused) -> None:
        """Send the last line, and release the connection and the log."""
        self.connection.send(final)
        with self._log_in_use:
            self.over.set()
            os.close(self.log)
        self.connection.end()


class Carrier(Protocol):
    """Carries runs; ``host_runs.py`` does it with torch."""

    broken: bool
    """True when no later run may enter the process."""

    def refusal(self, opening: Opening, request: Request) -> Refused | None:
        """Return the reason why the host does not carry a request."""
        ...

    def carry(self, run: HostedRun) -> Final | Refused:
        """Carry one run to its end, or refuse it; called on the main thread."""
        ...

    def greeting(self, runs: list[str]) -> Greeting:
        """Return the state of the process; called from any thread."""
        ...

    def drop_base(self) -> None:
        """Free the memory of the base; called while no run is inside."""
        ...


class TrainerHost:
    """Takes connections and carries their runs until nothing came for the idle time.

    Args:
        listener: A listening socket.
        carrier: Carries the runs.
        idle_s: Seconds without a run after which ``serve`` returns.
        report: Called with the names of the runs inside whenever they change.
        say: Writes a line into the host's log, from any thread.
    """

    def __init__(
        self,
        listener: socket.socket,
        carrier: Carrier,
        idle_s: float,
        *,
        report: Callable[[list[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self._listener, self._carrier, self._idle_s = listener, carrier, idle_s
        self._report, self._say = report, say
        self._changed = threading.Condition()
        self._waiting: deque[HostedRun] = deque()
        self._inside: HostedRun | None = None
        self._leaving = False

    def serve(self) -> int:
        """Carry runs until the host is to leave, is broken, or has been idle; return the exit code."""
        threading.Thread(target=self._accept, daemon=True, name="accept").start()
        while not self._carrier.broken and (run := self._next()) is not None:
            self._report([run.name])
            try:
                final = self._carrier.carry(run)
            finally:
                with self._changed:
                    self._inside = None
                self._report([])
            run.finish(final)
        self.leave()
        for run in self._withdraw_all():
            run.finish(refused("leaving"))
        return EXIT_BROKEN if self._carrier.broken else 0

    def leave(self) -> None:
        """Take no further run; ``serve`` returns when the present one has ended."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def drain(self, grace_s: float | None = None) -> None:
        """Ask the present run to end at its next step boundary, then leave; end the process after the grace.

        Args:
            grace_s: The grace; by default that of the run.
        """
        self.leave()
        with self._changed:
            inside = self._inside
        if inside is not None:
            inside.watch.stop.set()
            self._await_end(inside, inside.grace_s if grace_s is None else grace_s)

    def _next(self) -> HostedRun | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._leaving, self._idle_s)
            if self._leaving or not self._waiting:
                self._leaving = True
                return None
            self._inside = self._waiting.popleft()
            return self._inside

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                if self._leaving:
                    return
                time.sleep(ACCEPT_AGAIN_S)  # too many open files, for example
                continue
            threading.Thread(target=self._attend, args=(connected,), daemon=True, name="connection").start()

    def _attend(self, connected: socket.socket) -> None:
        """Read a connection to its end."""
        connection = Connection(connected)
        try:
            if is_of_this_user(connected):
                self._converse(connection)
        except (OSError, ValidationError) as error:
            self._say(f"a client was dropped: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        finally:
            connection.close()

    def _converse(self, connection: Connection) -> None:
        connection.expect_within(READ_S)
        with self._changed:
            runs = [run.name for run in (self._inside, *self._waiting) if run is not None]
        if not connection.send(self._carrier.greeting(runs)):
            return
        line = connection.read_line()
        if not line:
            return  # the client wanted the greeting alone
        match parse_first(line):
            case Leave():
                self.leave()
            case DropBase():
                self._drop_base()
            case Opening() as opening:
                run = self._admitted(opening, connection)
                if run is not None:
                    self._follow(run)

    def _drop_base(self) -> None:
        with self._changed:
            if self._inside is None and not self._waiting:
                self._carrier.drop_base()

    def _admitted(self, opening: Opening, connection: Connection) -> HostedRun | None:
        """Read the request, and put its run into the line; answer the client and return None where it is refused."""
        line = connection.read_line()
        log = connection.take_descriptor()
        if log is None:
            raise OSError("the opening came without exactly one descriptor")
        try:
            request = parse_request(line)
        except ValidationError as error:
            os.close(log)
            connection.send(Final(exit=refuse_line(JobEvents(connection), error)))
            return None
        refusal = self._carrier.refusal(opening, request)
        if refusal is None and isinstance(request, Carried):
            run = HostedRun(request, connection, log)
            with self._changed:
                if not self._leaving:
                    self._waiting.append(run)
                    self._changed.notify_all()
                    return run
        os.close(log)
        connection.send(refusal or refused("leaving"))
        return None

    def _follow(self, run: HostedRun) -> None:
        """Follow the lines of a run's client to their end."""
        run.connection.expect_within(WAITING_S)
        while True:
            try:
                line = run.connection.read_line()
            except BlockingIOError:
                if self._is_waiting(run):
                    self._tell_waiting(run)
                continue
            except OSError:  # a client that is gone while it has events to read resets the connection
                line = b""
            if run.over.is_set():
                return
            if line:
                run.take_control(line)
            if (not line or run.watch.stop.is_set()) and self._withdrawn(run):
                run.connection.write(event_line("drained", job=run.request.job, attempt=run.request.attempt, step=0))
                run.finish(Final(exit=EXIT_DRAINED))
                return
            if not line:
                self._say(f"the supervisor of {run.name} is gone; the run has {run.grace_s:.0f} s to end")
                run.watch.stop.set()
                self._await_end(run, run.grace_s)
                return

    def _tell_waiting(self, run: HostedRun) -> None:
        fields = {"phase": WAITING, "done": None, "total": None}
        run.connection.write(event_line("phase", job=run.request.job, attempt=run.request.attempt, **fields))

    def _is_waiting(self, run: HostedRun) -> bool:
        with self._changed:
            return run in self._waiting

    def _withdrawn(self, run: HostedRun) -> bool:
        """Take a run out of the line; return False if its turn has come already."""
        with self._changed:
            if run not in self._waiting:
                return False
            self._waiting.remove(run)
            return True

    def _withdraw_all(self) -> list[HostedRun]:
        with self._changed:
            withdrawn = list(self._waiting)
            self._waiting.clear()
            return withdrawn

    def _await_end(self, run: HostedRun, grace_s: float) -> None:
        """Wait for the end of a run that was asked to stop; end the process where it does not come."""
        faulthandler.dump_traceback_later(grace_s + SPARE_S, exit=True, file=2)
        if run.over.wait(grace_s):
            faulthandler.cancel_dump_traceback_later()
            return
        self._say(f"{run.name} is still here after its grace of {grace_s:.0f} s; the host ends")
        faulthandler.dump_traceback(file=2)
        os._exit(EXIT_BROKEN)
