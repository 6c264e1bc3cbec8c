"""Waits after each checkpoint of a training until the supervisor has stored the checkpoint.

If the machine failed while steps continued beyond a checkpoint that is not stored yet, these steps would be lost
together with a whole interval. Pruning would also delete files that are still being uploaded. The wait is one upload in
each interval.
"""

import threading

POLL_S = 0.05


class CheckpointAcks:
    """Collects the supervisor's acknowledgements of one run's checkpoints.

    Args:
        stop: Ends every wait: a trainer that is asked to leave does not wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._step = stop, -1
        self._changed = threading.Condition()

    def confirm(self, step: int) -> None:
        """Record that the checkpoint of a step is stored, or that the supervisor gave up storing it."""
        with self._changed:
            self._step = max(self._step, step)
            self._changed.notify_all()

    def wait(self, step: int) -> None:
        """Wait until the checkpoint of a step is confirmed, or until the run must end."""
        with self._changed:
            while self._step < step and not self._stop.is_set():
                self._changed.wait(POLL_S)
