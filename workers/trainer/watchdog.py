"""Detects a stalled trainer. The lease only proves that the worker lives; this module judges the trainer's own events.

A training is stalled after ``max(stall_s, 20 x the median step)`` without a step. Before and after the training (a
model loads, answers are generated) single operations take longer, so a trainer is stalled after three times ``stall_s``
without an event.
"""

import statistics
from collections import deque
from typing import Any

STEPS_SILENT = 20
LOADING = 3
DUMP_S = 5.0
"""Seconds between the request for a trainer's stacks and its kill."""
RECENT = 50


class StallDetector:
    """Measures the time without events of one run.

    Args:
        stall_s: Seconds without progress that are never a stall; None switches the detector off.
        now: The monotonic time of the run's start.
    """

    def __init__(self, stall_s: float | None, now: float) -> None:
        self._stall_s, self._last = stall_s, now
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._stepping = False

    def note_event(self, event: dict[str, Any], now: float) -> None:
        """Note an event of the trainer."""
        stepping = event.get("event") == "progress"
        if stepping and self._stepping:
            self._steps.append(now - self._last)
        self._stepping, self._last = stepping, now

    def silent_s(self, now: float) -> float:
        """Return the seconds since the last event."""
        return now - self._last

    def is_stalled(self, now: float) -> bool:
        """Return whether the run has sent no event for too long."""
        if self._stall_s is None:
            return False
        if self._stepping and self._steps:
            return self.silent_s(now) > max(self._stall_s, STEPS_SILENT * statistics.median(self._steps))
        return self.silent_s(now) > LOADING * self._stall_s
