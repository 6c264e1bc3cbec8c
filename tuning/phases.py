"""Reports the progress of a phase at most twice a second, with the estimated time left."""

import time

from .protocol import Emit

EVERY_S = 0.5


class PhaseProgress:
    """Emits the ``phase`` events of one phase: ``done`` of ``total``, and ``eta_s`` once a rate is known.

    Args:
        emit: Receives the events.
        phase: The phase in words.
        total: Units of work; None where the number is unknown.
    """

    def __init__(self, emit: Emit, phase: str, total: int | None = None) -> None:
        self._emit, self._phase, self._total = emit, phase, total
        self._began = self._told = time.monotonic()
        self._tell(0, None)

    def at(self, done: int) -> None:
        """Report the units of work that are done."""
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        left = None if self._total is None or not done else (now - self._began) * (self._total - done) / done
        self._tell(done, None if left is None else round(left, 1))

    def end(self) -> None:
        """Report that all work is done."""
        if self._total is not None:
            self._tell(self._total, 0.0)

    def _tell(self, done: int, eta_s: float | None) -> None:
        count = None if self._total is None else done
        self._emit("phase", phase=self._phase, done=count, total=self._total, eta_s=eta_s)
