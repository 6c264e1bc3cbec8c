"""Lets the runs of one process take turns: one works at a time, and hands the device over between two steps.

Each run has a thread of its own, so every wait is an ordinary call, and a run that waits for anything but the device
gives up its turn meanwhile. The line is first in, first out, and a turn is one step (or so many as the run's weight is
greater than the least weight inside): no step waits longer than a turn of each other run takes. The state of the
process that belongs to a run (``State``) is in force during its turns alone. No torch here.

The seconds of the device are divided by the turns (``device_shares.py``): the runs together are charged the time in
which one of them was inside, neither more nor less.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from .device_shares import DeviceShares

MOST_STEPS = 8
"""Most steps of one turn, however great the weight."""


class State(Protocol):
    """The state of the process that belongs to one run."""

    def install(self) -> None:
        """Put the run's state into force, in the run's thread."""
        ...

    def remove(self) -> None:
        """Keep the run's state for its next turn, and restore the state of the process."""
        ...


class Turns:
    """The runs that share a device, and their line.

    Args:
        clock: A monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._changed = threading.Condition()
        self._line: deque[Turn] = deque()
        self._holder: Turn | None = None
        self._inside: list[Turn] = []
        self._shares = DeviceShares()
        self._counted_at = clock()

    def join(self, state: State, weight: float = 1.0) -> "Turn":
        """Let a run in, which waits for its first turn with ``Turn.take``.

        Args:
            state: The run's part of the state of the process.
            weight: Its weight among the runs inside; above 0.
        """
        turn = Turn(self, state, weight)
        with self._changed:
            self._count()
            self._shares.enter(turn.key, self.clock())
            self._inside.append(turn)
        return turn

    def leave(self, turn: "Turn") -> float:
        """Let a run out that has given back its turn; return the seconds of the device that were its share."""
        with self._changed:
            self._count()
            self._inside.remove(turn)
            turn.used_s = self._shares.leave(turn.key, self.clock())
            return turn.used_s

    def share_s(self, turn: "Turn") -> float:
        """Return the seconds of the device that a run has used until now."""
        with self._changed:
            if turn not in self._inside:
                return turn.used_s
            self._count()
            return self._shares.share_s(turn.key, self.clock())

    def acquire(self, turn: "Turn") -> None:
        """Wait in the line for the device."""
        with self._changed:
            self._line.append(turn)
            self._changed.wait_for(lambda: self._holder is None and self._line[0] is turn)
            self._line.popleft()
            self._count()
            self._holder = turn

    def release(self) -> None:
        """Give the device to the first one in the line."""
        with self._changed:
            self._count()
            self._holder = None
            self._changed.notify_all()

    def is_waiting(self, turn: "Turn") -> bool:
        """Return whether a run waits for the device."""
        with self._changed:
            return turn in self._line

    def somebody_waits(self) -> bool:
        """Return whether a run waits for the device."""
        with self._changed:
            return bool(self._line)

    def steps(self, weight: float) -> int:
        """Return the steps of one turn of a run with this weight."""
        with self._changed:
            least = min(each.weight for each in self._inside)
        return min(MOST_STEPS, max(1, round(weight / least)))

    def _count(self) -> None:
        """Count the time since the last change as work of the run that has the device."""
        now = self.clock()
        if self._holder in self._inside:
            self._shares.count(self._holder.key, round((now - self._counted_at) * 1e6))
        self._counted_at = now


class Turn:
    """One run's place among the runs that share a device; it implements ``protocol.Turn``.

    Args:
        turns: The runs that share the device.
        state: The run's part of the state of the process.
        weight: The run's weight.
    """

    def __init__(self, turns: Turns, state: State, weight: float) -> None:
        self._turns, self._state, self.weight = turns, state, weight
        self.key = f"{id(self):x}"
        self._began = self._left = turns.clock()
        self._elsewhere_s, self._steps, self.used_s = 0.0, 0, 0.0

    @property
    def is_waiting(self) -> bool:
        """Return whether the run waits for the device."""
        return self._turns.is_waiting(self)

    @property
    def share_s(self) -> float:
        """Return the seconds of the device that the run has used until now."""
        return self._turns.share_s(self)

    def clock(self) -> float:
        """Return the seconds of a clock that stands still while the run does not have the device."""
        return self._turns.clock() - self._elsewhere_s

    def take(self) -> None:
        """Wait for the device, and put the run's state into force."""
        self._turns.acquire(self)
        self._began = self._turns.clock()
        self._elsewhere_s += self._began - self._left
        self._steps = 0
        self._state.install()

    def give(self) -> None:
        """Take the run's state out of force, and give the device away."""
        self._state.remove()
        self.release()

    def release(self) -> None:
        """Give the device away; the run's state is out of force already."""
        self._left = self._turns.clock()
        self._turns.release()

    def over(self, least_s: float = 0.0) -> None:
        """Hand the device over to the next run in the line, and wait for it; return at once where nobody waits.

        Args:
            least_s: Seconds that a turn has at least; without them it has its steps.
        """
        self._steps += 0 if least_s else 1
        is_over = (
            self._turns.clock() - self._began >= least_s if least_s else self._steps >= self._turns.steps(self.weight)
        )
        if is_over and self._turns.somebody_waits():
            self.give()
            self.take()

    @contextmanager
    def away(self) -> Generator[None]:
        """Give up the device for a block that waits for something else."""
        self.give()
        try:
            yield
        finally:
            self.take()
