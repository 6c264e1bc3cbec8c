"""Starts trainers through a fork server, which has imported their libraries (``tuning/trainer/fork_server.py``).

Each process that runs stages has at most one server. It is started for the first trainer, and again after its idle time
or its death, or when the environment of the next trainer differs: libraries read the environment while they are
imported, so a trainer may only come from a server with the same variables.
"""

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

AVAILABLE = sys.platform == "linux"  # pidfds, and a fork that is safe beside the pools of libraries
POLL_S = 0.2


@dataclass(frozen=True)
class WarmStart:
    """How a trainer may start through the fork server.

    Attributes:
        idle_s: Seconds for which the server waits for its next trainer.
        hurried: Returns whether the trainer has to stop already, so that nobody waits for a server that is starting.
    """

    idle_s: float
    hurried: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Pipes:
    """A trainer's descriptors: its standard input, its output, its events."""

    requests: int
    log: int
    events: int


class ForkedTrainer:
    """A trainer process that is no child of ours; it has the part of ``subprocess.Popen`` that a supervisor needs.

    Attributes:
        pid: Its process id; it is not used again before ``returncode`` is known.
        returncode: The exit code; None while the process runs or nobody looked.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = control.makefile("rb")
        try:
            self.pid: int = self._fact("pid")
        except (EOFError, OSError):
            self._lines.close()
            raise
        self._ended = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code if the process has ended, else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit code.

        Raises:
            subprocess.TimeoutExpired: The process still runs after the time.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"trainer {self.pid}", timeout or 0)
            try:
                self.returncode = self._fact("code")
            except EOFError:  # the server was killed, and the kernel ended or will end the trainer
                self.returncode = -signal.SIGKILL
            self._close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ended, number)

    def _fact(self, name: str) -> int:
        line = self._lines.readline()
        if not line:
            raise EOFError(name)
        return json.loads(line)[name]

    def _close(self) -> None:
        """Let the server reap the process."""
        self._lines.close()
        self._control.close()
        os.close(self._ended)


class _Server:
    """A fork server of this process.

    Args:
        program: Python's arguments for the trainer program.
        environment: All its variables, and those of its trainers.
        idle_s: Seconds without a trainer after which it ends.
        log: Descriptor to which it writes what the libraries print while they are imported: the first trainer's log.
    """

    def __init__(self, program: tuple[str, ...], environment: Mapping[str, str], idle_s: float, log: int) -> None:
        self.owner, self.environment = os.getpid(), dict(environment)
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *program, "--fork-server", str(theirs.fileno()), "--idle-s", str(idle_s)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=self.environment,
            )
        self._ready = False

    def wait_until_ready(self, hurried: Callable[[], bool]) -> bool:
        """Wait until the server has imported the libraries; return False if the caller cannot wait.

        Raises:
            EOFError: The server has ended.
        """
        while not self._ready:
            if hurried():
                return False
            if select.select([self._channel], [], [], POLL_S)[0]:
                if not self._channel.recv(1):
                    raise EOFError
                self._ready = True
        return True

    def fork(self, pipes: Pipes) -> ForkedTrainer:
        """Start a trainer.

        Raises:
            OSError, EOFError: The server has ended.
        """
        control, theirs = socket.socketpair()
        with contextlib.ExitStack() as if_it_fails:
            if_it_fails.enter_context(control)
            with theirs:
                descriptors = [pipes.requests, pipes.log, pipes.events, theirs.fileno()]
                socket.send_fds(self._channel, [b"trainer"], descriptors)
            trainer = ForkedTrainer(control)
            if_it_fails.pop_all()
        return trainer

    def close(self) -> None:
        """End the server, unless it belongs to the process from which this one was forked."""
        self._channel.close()
        if self.owner == os.getpid():
            if not self._ready:
                self._process.kill()  # it would import for seconds, and has forked nothing
            self._process.wait()


_server: _Server | None = None


def fork(
    program: tuple[str, ...], environment: Mapping[str, str], start: WarmStart, pipes: Pipes
) -> ForkedTrainer | None:
    """Start a trainer through this process's fork server, which is started where there is none.

    Args:
        program: Python's arguments for the trainer program.
        environment: All variables of the trainer.
        start: How long to wait.
        pipes: The trainer's descriptors, which stay open here.

    Returns:
        The trainer; None if the server cannot start or there is no time, and the caller starts a process of its own.
    """
    for _ in range(2):  # the first server may have ended after its idle time
        server = _current(program, environment, start.idle_s, pipes.log)
        try:
            return server.fork(pipes) if server.wait_until_ready(start.hurried) else None
        except (OSError, EOFError):
            stop()
    logger.warning("the fork server of trainers ended at its start; the trainer gets a process of its own")
    return None


def stop() -> None:
    """End the fork server of this process; a process that leaves without calling this only closes its socket."""
    global _server  # noqa: PLW0603  (one a process, as the module says)
    if _server is not None:
        _server.close()
    _server = None


def _current(program: tuple[str, ...], environment: Mapping[str, str], idle_s: float, log: int) -> _Server:
    global _server  # noqa: PLW0603
    if _server is not None and (_server.owner != os.getpid() or _server.environment != dict(environment)):
        stop()
    if _server is None:
        atexit.register(stop)
        _server = _Server(program, environment, idle_s, log)
    return _server
