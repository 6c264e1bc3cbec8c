"""Divides the time of a device among the runs that use it at once: each run has its share by tokens.

The wall time is cut wherever a run begins or ends. Within a span the runs that were inside share its milliseconds in
proportion to the tokens that they worked through; a span in which none did anything, such as the load of the base, is
shared equally. Runs that take turns (``turns.py``) are measured by their turns in place of tokens: the batches of an
evaluation have no number that compares with those of a step. The milliseconds are whole and their sum is that of the
span (largest remainder), so what all runs are charged together is the time that the device was used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction


def divide_ms(wall_ms: int, tokens: Mapping[str, int]) -> dict[str, int]:
    """Divide a span of whole milliseconds in proportion to tokens.

    Args:
        wall_ms: The milliseconds of the span.
        tokens: The tokens of each run that was inside; at least one run.

    Returns:
        The milliseconds of each run; their sum is ``wall_ms``.

    Example:
        ``divide_ms(100, {"a": 2, "b": 1})`` is ``{"a": 67, "b": 33}``.
    """
    weights = tokens if any(tokens.values()) else dict.fromkeys(tokens, 1)
    total = sum(weights.values())
    exact = {run: Fraction(wall_ms * weight, total) for run, weight in weights.items()}
    found = {run: int(share) for run, share in exact.items()}
    left = wall_ms - sum(found.values())
    for run in sorted(exact, key=lambda run: (found[run] - exact[run], run))[:left]:
        found[run] += 1
    return found


@dataclass
class DeviceShares:
    """Measures the shares of the runs of one device.

    Times are seconds of a clock that never goes back. A run that has left is forgotten, so its share is read when it
    leaves.

    Example:
        Two runs are inside for ten seconds, one with twice the tokens of the other; then one leaves, and the other is
        alone for five seconds::

            shares = DeviceShares()
            shares.enter("a", 0.0), shares.enter("b", 0.0)
            shares.count("a", 2000), shares.count("b", 1000)
            shares.leave("b", 10.0)   # 3333 ms
            shares.leave("a", 15.0)   # 6667 + 5000 ms
    """

    _since_ms: int = 0
    _tokens: dict[str, int] = field(default_factory=dict[str, int])
    _shares_ms: dict[str, int] = field(default_factory=dict[str, int])

    def enter(self, run: str, at_s: float) -> None:
        """Count a run as inside from this time on."""
        self._close(at_s)
        self._shares_ms[run], self._tokens[run] = 0, 0

    def count(self, run: str, tokens: int) -> None:
        """Count tokens that a run which is inside has worked through; of runs in turns, the microseconds of a turn."""
        self._tokens[run] += tokens

    def share_s(self, run: str, at_s: float) -> float:
        """Return the seconds of the device that a run which is inside has used until now."""
        self._close(at_s)
        return self._shares_ms[run] / 1000

    def leave(self, run: str, at_s: float) -> float:
        """Count a run as outside from this time on, and return the seconds of the device that it used."""
        share_s = self.share_s(run, at_s)
        del self._shares_ms[run], self._tokens[run]
        return share_s

    def _close(self, at_s: float) -> None:
        """Divide the span since the last call among the runs that are inside."""
        at_ms = max(self._since_ms, round(at_s * 1000))
        if self._tokens:
            for run, share_ms in divide_ms(at_ms - self._since_ms, self._tokens).items():
                self._shares_ms[run] += share_ms
        self._tokens = dict.fromkeys(self._tokens, 0)
        self._since_ms = at_ms
