"""Finds, starts, replaces and ends the resident trainer host of a worker's device.

The host belongs to the main process of the worker: the children of its pool come and go, and the host keeps its base.
Whichever child needs the host starts it, under a lock; the others wait and connect. The host watches its owner and ends
with it (``tuning/trainer/host_messages.py`` has the protocol). A host of other versions, or with another number of
threads, ends as soon as it is empty, and another one is started.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from ...storage.file_lock import is_locked, locked_if_free
from ...storage.unix_socket import is_of_this_user, listener_of, short_path
from ...tuning.trainer.host_messages import (
    HOST_PROTOCOL,
    DropBase,
    ExitReport,
    Greeting,
    Leave,
    line_of,
    lock_path,
    owner_argument,
)
from .environment import inherited, of_its_threads
from .log_files import cap

logger = logging.getLogger(__name__)

PROGRAM = ("-m", "celora.tuning.trainer")
"""Python's arguments for the program of a host."""
AVAILABLE = sys.platform == "linux"
POLL_S = 0.1
START_S = 120.0
"""Most seconds between the start of a host and its greeting."""
LEAVE_S = 10.0
"""Seconds that an empty host has to end."""
ASK_S = 2.0
"""Seconds that a question about the state of a host may take."""
SILENT_S = 5.0
"""Seconds that a host which does not answer has to end, before it is killed."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class HostPlace:
    """The place of one worker's host.

    Attributes:
        socket: The host's socket, which bears the owner's process id.
        log: The file for what libraries print.
        owner: The process whose end also ends the host: the main process of the worker.
        device: The device.
        idle_s: Seconds without a run after which the host ends.
        slots: The runs that are inside at one time.
        log_bytes: Size above which the middle of the log is cut out.
    """

    socket: Path
    log: Path
    owner: int
    device: Device
    idle_s: float
    slots: int = 1
    log_bytes: int = 0


class HostConnection:
    """A connection to a host, which has sent its greeting.

    Args:
        connected: The connected socket.
        greeting: The host's greeting.
        rest: Bytes that arrived behind the greeting.
    """

    def __init__(self, connected: socket.socket, greeting: Greeting, rest: bytes) -> None:
        self.socket, self.greeting, self.rest = connected, greeting, rest

    def close(self) -> None:
        """Close the connection; the host forgets its run."""
        self.socket.close()


_owner: int | None = None
_started: list[subprocess.Popen[bytes]] = []
"""The hosts that this process started; they may outlive it, and an ended one is reaped at the next start."""


def adopt(owner: int) -> None:
    """Make hosts that this process starts belong to another process: a pool's child names the worker."""
    global _owner  # noqa: PLW0603  (one a process, as the module says)
    _owner = owner


def owner_pid() -> int:
    """Return the process that owns the hosts of this process: the worker's main process, else this process."""
    return _owner or os.getpid()


def join(place: HostPlace, threads: int, hurried: Callable[[], bool]) -> HostConnection | None:
    """Connect to the host of a place; start one where there is none, and replace one that does not suit.

    Args:
        place: The place.
        threads: CPU threads of the run.
        hurried: Returns whether the run has to stop already, so that nobody waits for a host that is starting.

    Returns:
        The connection; None if there is no time, or no host can be had now: the run then gets a process of its own.
    """
    place.socket.parent.mkdir(parents=True, exist_ok=True)
    while not hurried():
        with locked_if_free(place.socket.with_suffix(".start")) as lock:
            if lock is not None:
                return _join(place, threads, hurried)
        time.sleep(POLL_S)
    return None


def greeting_of(place: HostPlace, within_s: float = ASK_S) -> Greeting | None:
    """Ask the host of a place for its state; None where there is none, or no answer in time."""
    connection = _connect(place.socket, within_s)
    if connection is None:
        return None
    connection.close()
    return connection.greeting


def lock_of_device(place: HostPlace) -> Path:
    """Return the file by which runs of the host and processes of their own share the device (``shared_device.py``)."""
    return place.socket.with_suffix(".device")


def process_of(place: HostPlace) -> int | None:
    """Return the process id of the host of a place; None where there is none."""
    greeting = greeting_of(place)
    return greeting.pid if greeting is not None else None


def drop_base(place: HostPlace) -> None:
    """Make an empty host free the memory of its base, for a process that needs the device."""
    _ask(place, DropBase())


def leave(place: HostPlace) -> None:
    """Make a host end as soon as no run is inside; wait for an empty one."""
    _ask(place, Leave())


def end(place: HostPlace, grace_s: float = 0.0) -> bool:
    """Make a host drain its runs and end; wait for that within the grace. Return whether there was a host.

    A host that does not answer is killed where it does not end either.
    """
    greeting = greeting_of(place)
    if greeting is None:
        return is_silent(place) and _end_silent(place, max(grace_s, SILENT_S))
    with contextlib.suppress(ProcessLookupError):
        os.kill(greeting.pid, signal.SIGTERM)
    _wait_until_gone(place, grace_s)
    return True


def is_silent(place: HostPlace) -> bool:
    """Return whether a host lives and has opened its socket; of one that did not greet, this means that it hangs."""
    return place.socket.exists() and is_locked(lock_path(place.socket))


def ends_of(place: HostPlace, within_s: float) -> list[ExitReport]:
    """Read the reports of the hosts of a place that ended within this time, the oldest first."""
    since, found = time.time() - within_s, list[tuple[float, ExitReport]]()
    for path in place.socket.parent.glob(f"{place.socket.stem}.*.exit"):
        with contextlib.suppress(OSError, ValidationError):
            ended_at = path.stat().st_mtime
            if ended_at >= since:
                found.append((ended_at, ExitReport.model_validate_json(path.read_bytes())))
    return [report for _, report in sorted(found, key=lambda pair: pair[0])]


def suits(greeting: Greeting, threads: int) -> bool:
    """Return whether a host computes as a new process would: the same protocol, versions and threads."""
    return greeting.host == HOST_PROTOCOL and not differences(greeting) and greeting.threads == threads


def differences(greeting: Greeting) -> list[str]:
    """List the versions of a host that are not those of a new process, in words."""
    here = {name: _installed(name) for name in greeting.versions}
    return [
        f"{name} {number} and not {here[name]}"
        for name, number in greeting.versions.items()
        if here[name] not in (None, number)
    ]


def _join(place: HostPlace, threads: int, hurried: Callable[[], bool]) -> HostConnection | None:
    found = _connect(place.socket, ASK_S)
    if found is not None:
        if suits(found.greeting, threads):
            return found
        logger.info("the trainer host %s is of another kind; it ends when it is empty", found.greeting.generation)
        found.close()
        leave(place)
        if not _wait_until_gone(place, ASK_S):
            return None
    _wait_until_gone(place, ASK_S)  # the parent of a host that died a moment ago still holds the lock
    started = _start(place, threads, hurried)
    if started is not None and not suits(started.greeting, threads):
        logger.warning("the trainer host %s does not compute as its runs must", started.greeting.generation)
        started.close()
        leave(place)
        return None
    return started


def _start(place: HostPlace, threads: int, hurried: Callable[[], bool], *, again: bool = True) -> HostConnection | None:
    """Start a host and wait for its greeting; once more where the host before it had not quite ended."""
    place.log.parent.mkdir(parents=True, exist_ok=True)
    cap(place.log, place.log_bytes)
    options = (
        "--owner", owner_argument(place.owner), "--idle-s", str(place.idle_s), "--device", place.device,
        "--threads", str(threads), "--slots", str(place.slots),
    )  # fmt: skip
    with place.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *PROGRAM, "--serve", str(place.socket), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**inherited(), **of_its_threads(threads)},
        )
    _started[:] = [*(each for each in _started if each.poll() is None), process]
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and not hurried():
        connection = _connect(place.socket, POLL_S)
        if connection is not None:
            return connection
        ended = process.poll()
        if ended == 0 and not is_locked(lock_path(place.socket)):  # the lock was that of a host that was ending
            return _start(place, threads, hurried, again=False) if again else None
        if ended not in (None, 0):  # 0: another process started a host meanwhile
            logger.warning("the trainer host ended at its start (exit code %s); see %s", ended, place.log)
            return None
        time.sleep(POLL_S)
    if not hurried() and process.poll() is None:
        logger.warning("the trainer host did not answer within %.0f s, and is killed; see %s", START_S, place.log)
        process.kill()  # its child ends with it
        process.wait()
    return None


def _connect(path: Path, within_s: float) -> HostConnection | None:
    """Connect to a socket and read the greeting; None where nobody listens or answers in time."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        with short_path(path) as place:
            connected.connect(place)
        if is_of_this_user(connected) and (found := _greeting(connected, within_s)) is not None:
            greeting, rest = found
            return HostConnection(connected, greeting, rest)
    except (OSError, ValidationError) as error:
        logger.debug("no trainer host answers at %s: %s", path, error)
    connected.close()
    return None


def _greeting(connected: socket.socket, within_s: float) -> tuple[Greeting, bytes] | None:
    received, deadline = b"", time.monotonic() + within_s
    while b"\n" not in received:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([connected], [], [], left_s)[0]:
            return None
        chunk = connected.recv(1 << 16)
        if not chunk:
            return None
        received += chunk
    line, _, rest = received.partition(b"\n")
    return Greeting.model_validate_json(line), rest


def _end_silent(place: HostPlace, grace_s: float) -> bool:
    """End the process that listens at a host's socket; return whether there was one."""
    try:
        with socket.socket(socket.AF_UNIX) as connected, short_path(place.socket) as path:
            connected.settimeout(ASK_S)
            connected.connect(path)
            pid = listener_of(connected) if is_of_this_user(connected) else None
    except OSError as error:
        logger.debug("no process listens at %s: %s", place.socket, error)
        return False
    if pid is None:
        return False
    logger.warning("the trainer host (process %d) does not answer, and is ended", pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        if not _wait_until_gone(place, grace_s):
            os.kill(pid, signal.SIGKILL)
            _wait_until_gone(place, ASK_S)
    return True


def _ask(place: HostPlace, message: BaseModel) -> None:
    """Send a host one message, and wait until the host has closed the connection."""
    connection = _connect(place.socket, ASK_S)
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.socket.settimeout(LEAVE_S)
        connection.socket.sendall(line_of(message))
        while connection.socket.recv(1 << 12):
            pass
    connection.close()


def _wait_until_gone(place: HostPlace, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while is_locked(lock_path(place.socket)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _installed(name: str) -> str | None:
    """Return the version of a library as a new process would import it; None where that is unknown."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
