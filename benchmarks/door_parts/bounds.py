"""The bounds of ``benchmarks/door.py``, and the figures that exceed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READ_MS = 50.0
"""The largest p99 of a read."""
LONG_READS_MS = {"summary_long": 120.0, "series_long": 220.0}
"""The same of reads that look at a whole long job."""
MOST = {
    "streams": {"retrieve_beside_p99_ms": 100.0},
    "upload": {
        "memory_mib": 32.0,
        "written_share": 1.05,
        "sent_before_wrong_key_mib": 8.0,
        "sent_before_length_mib": 8.0,
    },
    "creates": {"p99_ratio": 2.0, "longest_without_broker_s": 1.0, "lost": 0.0},
}
LEAST = {"upload": {"rate_share": 0.7}, "creates": {"rate_share": 0.6}}


@dataclass(frozen=True)
class Judged:
    """A figure beside its bound."""

    name: str
    value: float
    bound: float
    is_least: bool = False

    @property
    def is_exceeded(self) -> bool:
        """True if the figure is on the wrong side of its bound."""
        return self.value < self.bound if self.is_least else self.value > self.bound

    def __str__(self) -> str:
        sign = ">=" if self.is_least else "<="
        return f"{self.name:36} {self.value:10.2f} {sign} {self.bound:6.2f}{'  EXCEEDED' if self.is_exceeded else ''}"


def judge(found: Mapping[str, Any]) -> list[Judged]:
    """Return the figures of the parts that were measured, each beside its bound."""
    reads: Mapping[str, Mapping[str, float]] = found.get("reads_ms", {})
    judged = [
        Judged(f"{name} p99 ms", figure["p99"], LONG_READS_MS.get(name, READ_MS)) for name, figure in reads.items()
    ]
    for bounds, is_least in ((MOST, False), (LEAST, True)):
        for part, limits in bounds.items():
            judged += [
                Judged(f"{part} {name}", found[part][name], bound, is_least)
                for name, bound in limits.items()
                if part in found
            ]
    return judged
