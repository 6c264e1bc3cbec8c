"""Shares this machine's cores among the trainers that its workers may run at once.

A trainer without a limit takes a thread a core. Several such trainers wait for each other's time slices at every matrix
product. In a container that may use two of 64 cores, a single trainer runs 64 threads on them. The share follows from
the runs that are possible here, not from those that run at this moment: the number of threads changes the last bits of
a result, which must not depend on a job's neighbours.
"""

import math
import os
import platform
from pathlib import Path

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from ...models.tables import Worker
from ...settings.settings import Settings

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""The limit of this control group: microseconds of CPU time, or ``max``, in a period of microseconds."""


def trainer_threads(session: Session, settings: Settings) -> int:
    """Return the CPU threads of a trainer that starts here now; 0 leaves it a thread a core.

    The operator's settings (``CELORA_TRAINER_THREADS``, or ``OMP_NUM_THREADS`` in the worker's environment) win.
    """
    if settings.trainer_threads or os.environ.get("OMP_NUM_THREADS"):
        return settings.trainer_threads
    here = (Worker.host == platform.node(), Worker.kind == "gpu", Worker.status == "online")
    at_once = case((Worker.device_index.is_not(None), 1), else_=Worker.slots)  # the runs of one device take turns
    runs: int | None = session.scalar(select(func.sum(at_once)).where(*here))
    return share(usable_cores(), os.cpu_count() or 1, runs or 1)


def share(usable: int, cores: int, runs: int) -> int:
    """Return the threads of one of several runs; 0 where one run has all cores.

    Args:
        usable: Cores that this process may use.
        cores: Cores of the machine, as a library counts them.
        runs: Trainers that may run here at once.

    Example:
        8 usable cores and 3 runs give 2 threads each.
    """
    return 0 if runs == 1 and usable == cores else max(1, usable // runs)


def usable_cores(limit: Path = CPU_MAX) -> int:
    """Return the cores that this process may use: its affinity, and the limit of its control group, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # another system, the first version of control groups, or "max"
        return cores
    return max(1, min(cores, allowed))
