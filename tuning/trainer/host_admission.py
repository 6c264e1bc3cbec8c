"""Decides which requests a resident trainer host carries; worker and host ask the same function.

A host is one process for the jobs of many attempts, so nothing may enter that would change the process for its
successors, or that successors could read: variables of a job's own, trackers (which write to the environment), code
that comes with a base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..protocol import Base, EvaluateRequest, GenerateRequest, Request, TrainRequest
from .host_messages import Opening, Reason, Refused

_WORDS: dict[Reason, str] = {
    "device": "the host has another device",
    "exclusive": "the job asked for a process of its own",
    "leaving": "the host is about to end",
    "base": "the base is not complete in the cache of this machine, and a host downloads nothing",
    "operation": "only training, evaluation and generation run in a host",
    "remote_code": "the base may run code of its own",
    "secrets": "the job has environment variables of its own",
    "threads": "the host computes with another number of threads",
    "trackers": "the run reports to a tracker, which writes to the environment of its process",
}


@dataclass(frozen=True)
class Device:
    """The memory of a host's device.

    Attributes:
        total_bytes: Its memory.
        base_bytes: Memory of the base that the host holds.
        slots: The runs that may be inside at one time.
    """

    total_bytes: int
    base_bytes: int
    slots: int

    def own_bytes(self, opening: Opening) -> int:
        """Return the memory of a run beside the base: its estimate, and at least its equal part of the device."""
        return max(0, max(opening.memory_bytes, self.total_bytes // self.slots) - self.base_bytes)


def may_join(joining: tuple[Opening, Base], inside: Sequence[tuple[Opening, Base]], device: Device) -> bool:
    """Return whether a run may enter a host beside the runs that are inside.

    A run plans its micro batch for an equal part of the device, so as many as there are slots fit, unless the least
    that one of them needs is more than its part.
    """
    opening, base = joining
    if not inside:
        return True
    if len(inside) >= device.slots or any(other.model_dump() != base.model_dump() for _, other in inside):
        return False
    strangers = [other for other, _ in inside if other.tenant != opening.tenant]
    if strangers and not all(one.between_tenants for one in (opening, *strangers)):
        return False
    needed = sum(device.own_bytes(one) for one in (opening, *(other for other, _ in inside)))
    return device.base_bytes + needed <= device.total_bytes


def refusal(
    opening: Opening, request: Request, *, device: Literal["cpu", "cuda"], threads: int | None = None
) -> Refused | None:
    """Return the reason why a host must not carry a request; None if it may.

    Args:
        opening: The facts about the job that the request does not hold.
        request: The request.
        device: The host's device.
        threads: The host's CPU threads; None where the caller has not started a host yet.
    """
    reason = _reason(opening, request, device, threads)
    return refused(reason) if reason else None


def refused(reason: Reason) -> Refused:
    """Return the message of a refusal."""
    return Refused(refused=reason, message=f"{_WORDS[reason]}; the run gets a process")


def _reason(opening: Opening, request: Request, device: str, threads: int | None) -> Reason | None:
    if not isinstance(request, TrainRequest | EvaluateRequest | GenerateRequest):
        return "operation"
    names = (request.base.name, request.base.source)
    found: dict[Reason, bool] = {
        "exclusive": opening.exclusive,
        "secrets": bool(opening.variables),
        "trackers": isinstance(request, TrainRequest) and bool(request.recipe.report_to),
        "remote_code": any(request.hub.allows_code(name) for name in names),
        "device": request.device != device,
        "threads": threads is not None and request.threads != threads,
    }
    return next((reason for reason, holds in found.items() if holds), None)
