"""Forks trainer processes from a process that has imported the trainer's libraries already, for devices that are CPUs.

    python -m celora.tuning.trainer --fork-server FD --idle-s SECONDS

Importing torch, transformers, TRL and bitsandbytes takes most of the start of a trainer, and is the same for every job.
This program imports them once. For each message on the unix socket FD it forks a trainer: a process and a session of
its own with its own standard input, events and log, so nothing of a job is left for the next one. The libraries' memory
is shared among all. The program handles no data, no secret and no base; it loads no model.

What the libraries print while they are imported goes to the log of the first trainer, as it does without a server. The
server writes one byte to the socket when it is ready. A message carries four descriptors: standard input, log,
events, and the trainer's own control socket. The server writes two JSON lines to the control socket: ``{"pid": N}``
after the fork, ``{"code": N}`` after the trainer's end, negative for a signal as in ``subprocess``. The trainer stays a
zombie until the other end of the control socket is closed, so that its process id means this trainer for as long as the
supervisor may use it.

The program ends when the socket is closed, because its worker is gone, or after the idle time. A trainer takes the end
of the server for the end of its supervisor.

Forking is safe here although the libraries have threads: they are the pools of OpenBLAS and the memory manager of
pyarrow, which are made anew in a child. No OpenMP region runs before the fork; after one, GNU's OpenMP would hang.
A CUDA context does not survive a fork: GPUs get a new process for each stage.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

DESCRIPTORS = 4
MESSAGE_BYTES = 64
LIBRARIES = ("..training.run", "..evaluation.evaluate")
"""The stages of a GPU worker; all libraries that a small job needs come with them."""


@dataclass
class _Trainer:
    pid: int
    ended: int
    """A pidfd: it is readable when the process has ended; negative when it is closed."""
    control: socket.socket

    def forget(self) -> None:
        """Close the pidfd; another descriptor may have its number afterwards."""
        if self.ended >= 0:
            os.close(self.ended)
        self.ended = -1


class ForkServer:
    """Serves the requests of one socket until it is closed.

    Args:
        channel: Socket of the worker.
        answer: Runs the trainer program in a child; it takes the descriptor of the events and returns the exit code.
        idle_s: Seconds without a trainer and without a request after which the server ends.
    """

    def __init__(self, channel: socket.socket, answer: Callable[[int], int], idle_s: float) -> None:
        self._channel, self._answer, self._idle_s = channel, answer, idle_s
        self._trainers: dict[int, _Trainer] = {}
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(channel, selectors.EVENT_READ, self._fork)

    def serve(self) -> None:
        """Fork a trainer for each message; return when the socket is closed or after the idle time."""
        open_ = True
        while open_:
            ready = self._waiting.select(None if self._trainers else self._idle_s)
            if not ready:
                return
            for key, _ in ready:
                open_ = key.data() is not False and open_

    def _fork(self) -> bool:
        """Fork a trainer for one message; return False after the last message."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, DESCRIPTORS)
        if not message:
            return False
        requests, log, events, control = descriptors
        pid = os.fork()
        if pid == 0:
            self._become_trainer(requests, log, events, control)
        for descriptor in (requests, log, events):
            os.close(descriptor)
        trainer = _Trainer(pid, os.pidfd_open(pid), socket.socket(fileno=control))
        self._trainers[pid] = trainer
        _tell(trainer, pid=pid)
        self._waiting.register(trainer.ended, selectors.EVENT_READ, lambda: self._report(trainer))
        return True

    def _become_trainer(self, requests: int, log: int, events: int, control: int) -> NoReturn:
        code = 1
        try:
            os.setsid()
            for trainer in self._trainers.values():
                trainer.control.close()
                trainer.forget()
            self._waiting.close()
            self._channel.close()
            for mine, standard in ((requests, 0), (log, 1), (log, 2)):
                os.dup2(mine, standard)
            for descriptor in (requests, log, control):
                os.close(descriptor)
            code = self._answer(events)
        except BaseException:  # noqa: BLE001  (nothing of the server may run in the child)
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _report(self, trainer: _Trainer) -> None:
        """Report the end of a trainer, and wait until its supervisor has taken note."""
        self._waiting.unregister(trainer.ended)
        trainer.forget()
        ended = os.waitid(os.P_PID, trainer.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # noqa: S101  (it has ended)
        _tell(trainer, code=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
        self._waiting.register(trainer.control, selectors.EVENT_READ, lambda: self._reap(trainer))

    def _reap(self, trainer: _Trainer) -> None:
        self._waiting.unregister(trainer.control)
        trainer.control.close()
        os.waitpid(trainer.pid, 0)
        del self._trainers[trainer.pid]


def run(descriptor: int, idle_s: float, answer: Callable[[int], int]) -> int:
    """Import the trainer's libraries, then serve the socket; return the exit code."""
    channel = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the worker, which then closes the socket
    for name in LIBRARIES:
        importlib.import_module(name, __package__)
    gc.freeze()
    _leave_log()
    channel.sendall(b".")
    ForkServer(channel, answer, idle_s).serve()
    return 0


def _leave_log() -> None:
    """Close the log of the first trainer, to which the libraries wrote; the server itself prints nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _tell(trainer: _Trainer, **fact: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the supervisor is gone; its trainer leaves soon
        trainer.control.sendall(json.dumps(fact).encode() + b"\n")
