"""Measures the GPU memory that processes outside celora use on a worker's device.

NVML's figures for single processes are missing in containers and on slices of a GPU, and its process ids may belong to
another namespace. So while the worker runs no job, all used memory that is not known to be celora's counts as foreign.
While it runs a job, NVML's figures count only if they include celora's own trainer. An idle trainer host keeps a base
in the device's memory: its process is the worker's own, even if its parent has ended. Where NVML does not report the
host, the bytes that the host holds by its own account are not foreign.
"""

import logging
from collections.abc import Set as AbstractSet

import psutil

from ..errors import UnavailableError
from .gpu import Reading, reading

logger = logging.getLogger(__name__)


HOST_CONTEXT_BYTES = 2**30
"""Device memory of a process beside torch's allocations, at most: the CUDA context and the libraries' kernels."""


def held_by_others(uuid: str, *, busy: bool, host: int | None = None, host_bytes: int = 0) -> int | None:
    """Measure the bytes of the device's memory that others use; None where that is unknown, and on a CPU.

    Args:
        uuid: NVML's UUID of the device that this worker is pinned to; empty on a CPU.
        busy: Whether this worker runs a job now.
        host: Process id of the worker's trainer host; None without one.
        host_bytes: Bytes that the host holds of the device.
    """
    if not uuid:
        return None
    try:
        found = reading(uuid)
    except UnavailableError as error:
        logger.warning("what others hold of %s is unknown: %s", uuid, error)
        return None
    if found is None:
        return None
    if host is None:
        return foreign_bytes(found, own_processes(), busy=busy)
    hidden = host_bytes + HOST_CONTEXT_BYTES if host_bytes else 0
    return foreign_bytes(found, own_processes() | {host}, busy=busy, host=host, hidden_bytes=hidden)


def foreign_bytes(
    found: Reading, own: AbstractSet[int], *, busy: bool, host: int | None = None, hidden_bytes: int = 0
) -> int | None:
    """Compute the foreign bytes of a reading, by the rule of this module; None where they are unknown.

    Args:
        found: The reading.
        own: Ids of the worker's own processes.
        busy: Whether this worker runs a job now.
        host: Process id of the worker's trainer host.
        hidden_bytes: Bytes of the host; they count where the reading does not report the host.

    Example:
        5 GiB used, no job of this worker, no process reported: 5 GiB are foreign.
    """
    ours = sum(held or 0 for pid, held in found.processes if pid in own)
    if not busy:
        seen = dict(found.processes).get(host) is not None if host is not None else True
        return max(0, found.used_bytes - ours - (0 if seen else hidden_bytes))
    told = all(held is not None for _, held in found.processes)
    if not told or not any(pid in own for pid, _ in found.processes):
        return None
    return sum(held or 0 for pid, held in found.processes if pid not in own)


def own_processes() -> set[int]:
    """List the ids of this worker's process and of all its descendants, trainers included."""
    me = psutil.Process()
    return {me.pid, *(child.pid for child in me.children(recursive=True))}
