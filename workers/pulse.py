"""Whether a trainer still gets somewhere: a clock of its progress, apart from the lease, which proves the supervisor.

While it trains, it is stalled after ``max(stall_s, 20 x the median step)`` without a step; before and after (a model
loads, answers are generated), where single pieces of work are longer, after three times ``stall_s`` without an event.
"""

import statistics
from collections import deque
from pathlib import Path
from typing import Any

STEPS_SILENT = 20
LOADING = 3
DUMP_S = 5.0
"""Seconds between the request for a trainer's stacks and its end."""
RECENT = 50


class Pulse:
    """The progress clock of one run.

    Args:
        stall_s: Seconds without progress that are never a stall; None switches the clock off.
        now: The monotonic time of its start.
    """

    def __init__(self, stall_s: float | None, now: float) -> None:
        self._stall_s, self._last = stall_s, now
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._stepping = False

    def heard(self, event: dict[str, Any], now: float) -> None:
        """An event came."""
        stepping = event.get("event") == "progress"
        if stepping and self._stepping:
            self._steps.append(now - self._last)
        self._stepping, self._last = stepping, now

    def silent_s(self, now: float) -> float:
        """Seconds since the last event."""
        return now - self._last

    def stalled(self, now: float) -> bool:
        """Whether the silence has gone on too long."""
        if self._stall_s is None:
            return False
        if self._stepping and self._steps:
            return self.silent_s(now) > max(self._stall_s, STEPS_SILENT * statistics.median(self._steps))
        return self.silent_s(now) > LOADING * self._stall_s


def oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel's memory limit has ended in this process's control group; 0 where it can't tell."""
    for name in ("memory.events", "memory/memory.oom_control"):
        for folder in _groups(root):
            try:
                lines = (folder / name).read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def _groups(root: Path) -> list[Path]:
    """The control group of this process, then the root that a container sees as its own."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return [root]
    own = [root / line.rpartition(":")[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [*own, root]
