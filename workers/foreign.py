"""How much of a worker's device others use: the people at the machine, or a program that nobody remembers.

NVML's figures for single processes are missing in containers and on slices of a GPU, and its process ids may be another
namespace's. So while no job of ours runs, whatever is used and not known to be ours is theirs; while one runs, only
figures that name our own trainer, too, are believed.
"""

import logging
from collections.abc import Set as AbstractSet

import psutil

from ..settings.errors import UnavailableError
from .gpu import Reading, reading

logger = logging.getLogger(__name__)


def held_by_others(uuid: str, *, busy: bool) -> int | None:
    """Bytes of the device's memory that are not ours; None where that is unknown, and on a CPU.

    Args:
        uuid: NVML's name of the device that this worker is pinned to; empty on a CPU.
        busy: Whether this worker carries a job now.
    """
    if not uuid:
        return None
    try:
        found = reading(uuid)
    except UnavailableError as error:
        logger.warning("what others hold of %s is unknown: %s", uuid, error)
        return None
    return None if found is None else foreign_bytes(found, own_processes(), busy=busy)


def foreign_bytes(found: Reading, own: AbstractSet[int], *, busy: bool) -> int | None:
    """The rule by which ``held_by_others`` judges a reading.

    Example:
        5 GiB used, no job of ours, no process told: 5 GiB are somebody else's.
    """
    ours = sum(held or 0 for pid, held in found.processes if pid in own)
    if not busy:
        return max(0, found.used_bytes - ours)
    told = all(held is not None for _, held in found.processes)
    if not told or not any(pid in own for pid, _ in found.processes):
        return None
    return sum(held or 0 for pid, held in found.processes if pid not in own)


def own_processes() -> set[int]:
    """This worker and everything below it, trainers included."""
    me = psutil.Process()
    return {me.pid, *(child.pid for child in me.children(recursive=True))}
