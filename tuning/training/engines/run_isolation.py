# pyright: basic
# (torch ships incomplete types)
"""Separates the process-wide state of one run from that of the next, in a process that carries many.

A run may set environment variables, warning filters, logging levels, torch's switches, limits of the kernel and timers,
and draws random numbers. All of it is as before after the block. What the run and its libraries print goes to the
job's log meanwhile, also what C libraries write. The random numbers of each run begin where a new process would begin.

Of runs that take turns each has a ``RunState``, which is in force during the run's turns alone.
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


class RunState:
    """The state of one run of several that take turns (``turns.State``).

    Args:
        device: ``cpu`` or ``cuda``.
        log: Descriptor of the job's log, which the caller keeps open until ``close``.
    """

    def __init__(self, device: str, log: int) -> None:
        self._process, self._log = ProcessState(device), log
        self._output = [os.dup(number) for number in OUTPUT]
        self._own: list[Callable[[], None]] | None = None
        self._others: list[Callable[[], None]] = []

    def install(self) -> None:
        """Put the run's state into force; at the first time it is that of the process."""
        _write_output_to([self._log] * len(OUTPUT))
        self._others = self._recorded()
        if self._own is None:
            warnings.filters = list(warnings.filters)  # pyright: ignore[reportAttributeAccessIssue]  (the run's own)
        for restore in self._own or []:
            restore()

    def remove(self) -> None:
        """Keep the run's state for its next turn, and restore that of the process."""
        self._own = self._recorded()
        for restore in self._others:
            restore()
        _write_output_to(self._output)

    def close(self) -> None:
        """Close the descriptors that the object has made."""
        for descriptor in self._output:
            os.close(descriptor)

    def _recorded(self) -> list[Callable[[], None]]:
        parts = (self._process.recorded, _filters, _environment, _loggers, _switches, _limits, _folder)
        return [record() for record in parts]


def _write_output_to(descriptors: list[int]) -> None:
    """Make standard output and error write to other files from now on."""
    _flush()
    for number, own in zip(OUTPUT, descriptors, strict=True):
        os.dup2(own, number)


def _filters() -> Callable[[], None]:
    """Record the filters of warnings: the very lists, since a block of the run may put them back at its end."""
    names = ("filters", "showwarning", "_showwarnmsg_impl")
    before = [(name, getattr(warnings, name)) for name in names]

    def restore() -> None:
        for name, value in before:
            setattr(warnings, name, value)
        with warnings.catch_warnings():
            pass  # makes the module read its filters anew

    return restore


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
