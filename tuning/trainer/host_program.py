"""Starts a resident trainer host: a small process that waits for its end, and the host as its child.

The small process exists because the supervisors of a host are not its parents: they learn of its end from the report
that the parent writes. It imports no library and holds the socket's lock, so it survives what ends the host. The host
in turn ends with it, and with its owner.
"""

import contextlib
import ctypes
import importlib
import json
import os
import secrets
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

from ...storage.file_lock import locked_if_free
from ...storage.unix_socket import listen
from .. import garbage_collector
from ..memory_kills import oom_kills
from .host_messages import ExitReport, exit_path, lock_path, start_of
from .parent_watch import PR_SET_PDEATHSIG, dump_on_request, keep_logging
from .stages import hide_trackers

LIBRARIES = ("..training.run", "..evaluation.evaluate", "..evaluation.generate", ".host_runs")
"""Modules of all stages that a host carries; all libraries come with them."""
REPORT_S = 24 * 3600
"""Seconds for which the report of an ended host is kept."""


@dataclass(frozen=True)
class HostOptions:
    """The options of a host.

    Attributes:
        socket: The path of its socket.
        owner: The process whose end is the host's end: ``PID`` or ``PID:START``.
        idle_s: Seconds without a run after which it ends.
        threads: The CPU threads of its requests, as ``protocol`` has them.
        device: ``cpu`` or ``cuda``.
        slots: The runs that are inside at one time.
    """

    socket: Path
    owner: str
    idle_s: float
    threads: int
    device: Literal["cpu", "cuda"]
    slots: int = 1


def serve(options: HostOptions) -> int:
    """Run a host to its end, unless one serves the socket already; return the exit code."""
    os.umask(os.umask(0o077) | 0o027)  # the group reads what it may read of other trainers; others read nothing
    owner = open_owner(options.owner)
    if owner is None:
        return 0
    with locked_if_free(lock_path(options.socket)) as lock:
        if lock is None:
            return 0
        _remove_old_reports(options.socket)
        generation, kills = secrets.token_hex(8), oom_kills()
        reading, writing = os.pipe()
        parent, child = os.getpid(), os.fork()
        if child == 0:
            os.close(reading)
            _become_host(options, owner, generation, writing, parent)
        os.close(writing)
        code, number, runs = _await_end(child, reading)
        options.socket.unlink(missing_ok=True)
        report = ExitReport(generation=generation, code=code, signal=number, oom_kills=oom_kills() - kills, runs=runs)
        _write_report(exit_path(options.socket, generation), report)
    return 128 + number if number is not None else code or 0


def open_owner(owner: str) -> int | None:
    """Return a descriptor that is readable when the owner has ended; None if it has ended already."""
    pid, _, start = owner.partition(":")
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return None
    if start and start_of(int(pid)) != int(start):  # asked after the descriptor is open: it means this process
        os.close(descriptor)
        return None
    return descriptor


def _await_end(child: int, runs: int) -> tuple[int | None, int | None, list[str]]:
    """Wait for the end of the host; return its exit code, or its signal, and the runs that were inside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the owner
    signal.signal(signal.SIGTERM, lambda number, _frame: os.kill(child, number))
    buffer, last = b"", b"[]"
    ended, running = os.pidfd_open(child), True
    os.set_blocking(runs, False)
    while running:
        running = ended not in select.select([ended, runs], [], [])[0]
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(runs, 1 << 16):
                *lines, buffer = (buffer + chunk).split(b"\n")
                last = lines[-1] if lines else last
    os.close(ended)
    _, status = os.waitpid(child, 0)
    names: list[str] = json.loads(last)
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status), names
    return os.WEXITSTATUS(status), None, names


def _write_report(path: Path, report: ExitReport) -> None:
    staged = path.with_suffix(".new")
    staged.write_text(report.model_dump_json(), encoding="utf-8")
    staged.replace(path)


def _remove_old_reports(socket: Path) -> None:
    for path in socket.parent.glob(f"{socket.stem}.*.exit"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > REPORT_S:
                path.unlink()


def _become_host(options: HostOptions, owner: int, generation: str, runs: int, parent: int) -> NoReturn:
    """Carry runs until the end of the process, which the parent reports."""
    code = 1
    try:
        _end_with(parent)
        code = _carry_runs(options, owner, generation, runs)
    except BaseException:  # noqa: BLE001  (nothing of the parent may run in the child)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _carry_runs(options: HostOptions, owner: int, generation: str, runs: int) -> int:
    keep_logging()
    dump_on_request()
    say = _speaker(os.fdopen(os.dup(2), "wb", buffering=0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a thread of its own takes it, also during a C call
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    hide_trackers(())  # a run that reports to a tracker gets a process of its own
    for name in LIBRARIES:
        importlib.import_module(name, __package__)
    garbage_collector.resume()
    from .host import TrainerHost  # noqa: PLC0415  (imported above, with the libraries)
    from .host_runs import HostRuns  # noqa: PLC0415

    carrier = HostRuns(options.device, options.threads, generation, say, options.slots)

    def report(names: list[str]) -> None:
        os.write(runs, json.dumps(names).encode() + b"\n")

    with listen(options.socket) as listener:
        host = TrainerHost(listener, carrier, options.idle_s, slots=options.slots, report=report, say=say)
        for wait in (lambda: select.select([owner], [], []), lambda: signal.sigwait({signal.SIGTERM})):
            threading.Thread(target=_drain_after, args=(wait, host.drain), daemon=True, name="owner").start()
        say(f"generation {generation} serves {options.socket}")
        code = host.serve()
        options.socket.unlink(missing_ok=True)
    say(f"generation {generation} ends with exit code {code}")
    return code


def _drain_after(wait: Callable[[], object], drain: Callable[[], None]) -> None:
    wait()
    drain()


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent."""
    if sys.platform == "linux":
        set_option: Callable[..., int] = ctypes.CDLL(None).prctl
        set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _speaker(log: IO[bytes]) -> Callable[[str], None]:
    """Return a function that writes lines into the host's log, also while a run prints to its own."""

    def say(words: str) -> None:
        with contextlib.suppress(OSError):
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} trainer host: {words}\n".encode())

    return say
