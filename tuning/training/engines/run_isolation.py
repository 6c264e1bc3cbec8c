# pyright: basic
# (torch ships incomplete types)
"""Separates the process-wide state of one run from that of the next, in a process that carries many.

A run may set environment variables, warning filters, logging levels, torch's switches, limits of the kernel and timers,
and draws random numbers. All of it is as before after the block. What the run and its libraries print goes to the
job's log meanwhile, also what C libraries write. The random numbers of each run begin where a new process would begin.
"""

import ctypes
import faulthandler
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .process_state import ProcessState

LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
OUTPUT = (1, 2)


class Isolation:
    """Isolates the runs of one process, one after another.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    @contextmanager
    def run(self, log: int) -> Generator[None]:
        """Isolate a run for a block.

        Args:
            log: Descriptor of the job's log.
        """
        with ExitStack() as undo:
            undo.enter_context(_printing_to(log))
            undo.enter_context(ProcessState(self._device).installed())
            undo.enter_context(warnings.catch_warnings())
            for restore in (_environment(), _loggers(), _switches(), _limits(), _folder()):
                undo.callback(restore)
            yield


@contextmanager
def _printing_to(log: int) -> Generator[None]:
    """Write standard output and error to a log for a block."""
    kept = [os.dup(number) for number in OUTPUT]
    _flush()
    for number in OUTPUT:
        os.dup2(log, number)
    try:
        yield
    finally:
        _flush()
        faulthandler.cancel_dump_traceback_later()
        for number, own in zip(OUTPUT, kept, strict=True):
            os.dup2(own, number)
            os.close(own)


def _flush() -> None:
    """Write out the buffers of Python and of C."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})

    return restore


def _loggers() -> Callable[[], None]:
    named = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.level, one.disabled, one.propagate, list(one.handlers)) for one in (logging.root, *named)]

    def restore() -> None:
        for one, level, disabled, propagate, handlers in before:
            one.setLevel(level)
            one.disabled, one.propagate = disabled, propagate
            one.handlers[:] = handlers

    return restore


def _switches() -> Callable[[], None]:
    """Record torch's own switches."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    gradients, anomalies = torch.is_grad_enabled(), torch.is_anomaly_enabled()
    cudnn: Any = torch.backends.cudnn
    own = cudnn.deterministic, cudnn.benchmark

    def restore() -> None:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.set_grad_enabled(gradients)
        torch.autograd.set_detect_anomaly(anomalies)
        cudnn.deterministic, cudnn.benchmark = own

    return restore


def _limits() -> Callable[[], None]:
    """Record the soft limits of the kernel; a hard limit that a run lowered stays, since nobody can raise it."""
    before = [(kind, resource.getrlimit(kind)[0]) for kind in LIMITS]

    def restore() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, soft in before:
            now, hard = resource.getrlimit(kind)
            if now != soft:
                resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))

    return restore


def _folder() -> Callable[[], None]:
    before = os.getcwd()  # noqa: PTH109  (a path that may be gone must not be resolved)
    return lambda: os.chdir(before)
