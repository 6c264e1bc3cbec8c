"""Takes the connections of a resident trainer host, and carries their runs: one after another, or several in turns.

The messages are those of ``host_messages.py``. Each connection has a thread, which reads its lines to the end: a
request, controls, and the end of file that means that the supervisor is gone. Runs wait in the order of their arrival.
With one slot the main thread carries them; with several each run inside has a thread of its own. A run that its
supervisor has left gets its grace for a checkpoint; a run that is still there afterwards ends the process, since
nothing else ends a step that never returns.
"""

import faulthandler
import os
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pydantic import ValidationError

from ...errors import HostMemoryError, OutOfMemoryError
from ...storage.unix_socket import is_of_this_user
from ..protocol import EXIT_DRAINED, EvaluateRequest, GenerateRequest, Request, TrainRequest, event_line, parse_request
from ..training.turns import Turn
from .events import JobEvents
from .host_admission import refused
from .host_connection import READ_S, Connection
from .host_messages import (
    EXIT_BROKEN,
    OVER,
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
ASK_AGAIN_S = 1.0
"""Seconds after which the first run in the line is judged again while others are inside."""
OUT_OF_MEMORY = (OutOfMemoryError, HostMemoryError)
Carried = TrainRequest | EvaluateRequest | GenerateRequest
"""The requests that a host carries."""


def _nothing_yet() -> float:
    """Return the seconds of the device of a run that waits in the line."""
    return 0.0


class HostedRun:
    """One run, from its admission to its end.

    Args:
        request: The request.
        connection: The connection of its supervisor.
        log: Descriptor of the job's log, which this object owns.
        opening: The facts about the job that the request does not hold.

    Attributes:
        watch: The supervisor's requests for the run.
        turn: The run's place among several that take turns; None where it has the process alone.
        events: Writes the run's events to the connection.
        over: Set when the run has ended.
    """

    def __init__(self, request: Carried, connection: Connection, log: int, opening: Opening) -> None:
        self.request, self.connection, self.log, self.opening = request, connection, log, opening
        self.name = run_name(request.job, request.attempt)
        self.watch = JobWatch()
        self.turn: Turn | None = None
        self.over = threading.Event()
        self._log_in_use = threading.Lock()
        waits = isinstance(request, TrainRequest) and request.acknowledged
        self.events = JobEvents(
            connection,
            request.job,
            request.attempt,
            *([self._await_kept] if waits else []),
            interrupt=self.watch.stop,
        )

    def _await_kept(self, step: int) -> None:
        """Wait until a checkpoint is stored; the other runs go on meanwhile."""
        if self.turn is None:
            self.watch.acks.wait(step)
            return
        with self.turn.away():
            self.watch.acks.wait(step)

    def tell_phase(self, phase: str) -> None:
        """Write an event ``phase`` from any thread."""
        fields: dict[str, object] = {"phase": phase, "done": None, "total": None}
        if self.events.device_s is not None:
            fields["device_s"] = self.events.device_s()
        self.connection.write(event_line("phase", job=self.request.job, attempt=self.request.attempt, **fields))

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
        """Carry one run to its end, or refuse it; called on the main thread, or of several slots on the run's own."""
        ...

    def may_join(self, run: HostedRun, inside: Sequence[HostedRun]) -> bool:
        """Return whether a run may enter beside those inside; called where there are several slots."""
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
        slots: The runs that are inside at one time.
        report: Called with the names of the runs inside whenever they change.
        say: Writes a line into the host's log, from any thread.
    """

    def __init__(
        self,
        listener: socket.socket,
        carrier: Carrier,
        idle_s: float,
        *,
        slots: int = 1,
        report: Callable[[list[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self._listener, self._carrier, self._idle_s = listener, carrier, idle_s
        self._slots, self._report, self._say = slots, report, say
        self._changed = threading.Condition()
        self._waiting: deque[HostedRun] = deque()
        self._inside: list[HostedRun] = []
        self._leaving = False
        self._deadlines: dict[HostedRun, float] = {}

    def serve(self) -> int:
        """Carry runs until the host is to leave, is broken, or has been idle; return the exit code."""
        threading.Thread(target=self._accept, daemon=True, name="accept").start()
        threads: list[threading.Thread] = []
        while not self._carrier.broken and (run := self._next()) is not None:
            if self._slots == 1:
                self._carry(run)
            else:
                thread = threading.Thread(target=self._carry_beside, args=(run,), daemon=True, name=run.name)
                thread.start()
                threads = [*(one for one in threads if one.is_alive()), thread]
        self.leave()
        for run in self._withdraw_all():
            run.finish(refused("leaving"))
        for thread in threads:
            thread.join()
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
            inside = list(self._inside)
        for run in inside:
            run.watch.stop.set()
        for run in inside:
            self._await_end(run, run.grace_s if grace_s is None else grace_s)

    def _next(self) -> HostedRun | None:
        """Wait for a run that may enter, and let it in; return None if the host is to end."""
        with self._changed:
            while not self._first_may_enter():
                busy = bool(self._inside)  # the idle time begins when the last run has left
                seconds = ASK_AGAIN_S if busy else self._idle_s
                came = self._changed.wait_for(lambda: self._ends or self._first_may_enter(), seconds)
                if self._ends or not (came or busy):
                    break
            if self._ends or not self._waiting:
                self._leaving = True
                return None
            run = self._waiting.popleft()
            self._inside.append(run)
            self._report([one.name for one in self._inside])
            return run

    @property
    def _ends(self) -> bool:
        return self._leaving or self._carrier.broken

    def _first_may_enter(self) -> bool:
        if not self._waiting or not self._inside:
            return bool(self._waiting)
        return self._slots > 1 and self._carrier.may_join(self._waiting[0], self._inside)

    def _carry(self, run: HostedRun) -> None:
        try:
            final = self._carrier.carry(run)
        finally:
            if not self._carrier.broken or len(self._inside) == 1:
                self._let_out(run)
        if run.turn is not None:
            run.tell_phase(OVER)
        run.finish(final)

    def _carry_beside(self, run: HostedRun) -> None:
        """Carry one run of several; an error of the process ends them all, as it does on the main thread."""
        try:
            self._carry(run)
            if run in self._inside:
                self._end_neighbours(run)
        except BaseException:  # noqa: BLE001  (a host that cannot carry is at its end)
            traceback.print_exc()
            os._exit(1)

    def _end_neighbours(self, run: HostedRun) -> None:
        """End the runs beside one that has broken the process.

        A lack of memory leaves them whole, so they are drained. After an error of the device or of the base they
        cannot go on; the run that met it stays in the host's report, so that nobody takes a lone neighbour for the
        cause.
        """
        if run.events.failed_as is None or not issubclass(run.events.failed_as, OUT_OF_MEMORY):
            self._say(f"{run.name} has met an error of the device; the host ends with the runs inside")
            os._exit(EXIT_BROKEN)
        self._let_out(run)
        self.drain()

    def _let_out(self, run: HostedRun) -> None:
        with self._changed:
            self._inside.remove(run)
            self._report([one.name for one in self._inside])
            self._changed.notify_all()

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
            runs = [run.name for run in (*self._inside, *self._waiting)]
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
            if not self._inside and not self._waiting:
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
            run = HostedRun(request, connection, log, opening)
            if self._slots > 1:
                run.events.device_s = _nothing_yet
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
                    run.tell_phase(WAITING)
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

    def _is_waiting(self, run: HostedRun) -> bool:
        """Return whether a run waits for other ones: in the line, or inside for its turn."""
        turn = run.turn
        with self._changed:
            return run in self._waiting or (run in self._inside and turn is not None and turn.is_waiting)

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
        with self._ends_within(run, grace_s + SPARE_S):
            if run.over.wait(grace_s):
                return
            self._say(f"{run.name} is still here after its grace of {grace_s:.0f} s; the host ends")
            faulthandler.dump_traceback(file=2)
            os._exit(EXIT_BROKEN)

    @contextmanager
    def _ends_within(self, run: HostedRun, seconds: float) -> Generator[None]:
        """End the process if the block takes longer, even if nothing in it returns; faulthandler has one such timer."""
        with self._changed:
            self._deadlines[run] = time.monotonic() + seconds
            self._set_timer()
        yield
        with self._changed:
            self._deadlines.pop(run, None)
            self._set_timer()

    def _set_timer(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._deadlines:
            left_s = min(self._deadlines.values()) - time.monotonic()
            faulthandler.dump_traceback_later(max(0.01, left_s), exit=True, file=2)
