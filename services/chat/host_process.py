"""Starts an answer host on this machine where none listens, and ends it with this process.

A host of ``celora up`` listens already. Without one, the host is started at the first chat, and again after its idle
time or its death. It watches its standard input, whose
other end is here: when this process ends in any way, the host ends too. Several processes of the API may each start
one; the lock of the socket leaves one of them, and the others ask that one.
"""

import atexit
import contextlib
import subprocess
import sys
import threading

from ...errors import UnavailableError
from ...settings.settings import Settings
from ...workers.node.answer_process import arguments_of, environment_of, log_of
from ...workers.requirements import require_training
from ...workers.trainer.log_files import cap

END_S = 10.0

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def can_answer() -> bool:
    """Return whether this machine has the libraries of ``celora[train]``, and a system on which the host runs."""
    try:
        require_training()
    except UnavailableError:
        return False
    return sys.platform == "linux"


def start(settings: Settings) -> bool:
    """Start the answer host, unless the one that this process started still runs; return whether one was started."""
    global _process  # noqa: PLW0603  (one a process, as the module says)
    with _lock:
        if _process is not None and _process.poll() is None:
            return False
        if _process is None:
            atexit.register(stop)
        else:
            _close(_process)
        _process = _new(settings)
        return True


def stop() -> None:
    """End the answer host that this process started; do nothing where there is none."""
    global _process  # noqa: PLW0603
    with _lock:
        if _process is not None:
            _close(_process)
        _process = None


def _new(settings: Settings) -> subprocess.Popen[bytes]:
    arguments, place = arguments_of(settings, stay=False), log_of(settings)
    place.parent.mkdir(parents=True, exist_ok=True)
    cap(place, settings.service_log_bytes)
    with place.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment_of(settings),
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the standard input of a host, wait for its end, and kill one that does not end."""
    assert process.stdin is not None  # noqa: S101  (a pipe)
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
