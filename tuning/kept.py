"""The supervisor's word that a checkpoint is put away; the run goes on when it has come.

A step that is done beyond a checkpoint nobody has put away yet would be lost beside a whole interval if the machine
died now, and pruning would delete what is still being uploaded. The wait is the time of one upload in each interval.
"""

import threading

LOOK_S = 0.05


class Kept:
    """How far the supervisor has come.

    Args:
        stop: Ends every wait: whoever asks a trainer to leave does not have to answer it first.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._step = stop, -1
        self._told = threading.Condition()

    def tell(self, step: int) -> None:
        """The checkpoint of that step is put away, or will never be."""
        with self._told:
            self._step = max(self._step, step)
            self._told.notify_all()

    def wait(self, step: int) -> None:
        """Return when the word of that step has come, or when the run is to end."""
        with self._told:
            while self._step < step and not self._stop.is_set():
                self._told.wait(LOOK_S)
