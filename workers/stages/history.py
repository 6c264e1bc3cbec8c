"""Corrects the estimate of a receipt by the installation's earlier runs of the same base family, GPU type and length.

The formula's own numbers stay in the receipt, and the correction stands beside them as ``history``: its factor, its
range, the number of runs. The need for memory is raised where earlier runs needed more, and never lowered: the formula
is the least with which a job may begin, and a job that runs out of memory costs more than one that waits.
"""

from collections.abc import Mapping
from typing import Any

from ...models.queue.history import Factors, factors
from ...models.scope.scope import Scope
from ...scheduling.history import correction, excess
from ...tuning.protocol import PrepareResult
from .claimed import ClaimedStage

CPU = "cpu"
"""The type whose memory is the machine's, which no run measures."""


def corrected(stage: ClaimedStage, result: PrepareResult) -> PrepareResult:
    """Return the result of ``prepare`` with the corrections that the record's history gives."""
    with stage.database.session(Scope.everything) as session:
        known = factors(session, result.base.model_dump(), result.max_length)
    if not known:
        return result
    estimate: dict[str, Any] = result.receipt.get("estimate", {})
    devices = [_with_history(device, known.get(device["name"])) for device in estimate.get("devices", [])]
    return result.model_copy(
        update={
            "receipt": {**result.receipt, "estimate": {**estimate, "devices": devices}},
            "memory_bytes": int(result.memory_bytes * _memory_factor(known)),
        }
    )


def _with_history(device: dict[str, Any], known: Factors | None) -> dict[str, Any]:
    """Add the history to the row of a device type; without enough runs the row stays as it is."""
    found = correction(known.seconds if known is not None else ())
    if not found.runs:
        return device
    numbers = {"factor": round(found.factor, 4), "low": round(found.low, 4), "high": round(found.high, 4)}
    return {**device, "history": {"runs": found.runs, **numbers}}


def _memory_factor(known: Mapping[str, Factors]) -> float:
    """Return the factor on the least memory: the upper end of the range of the type that exceeded its estimate most."""
    return max([1.0, *(excess(each.memory) for name, each in known.items() if name != CPU)])
