"""Measures the share of each tenant: GPU seconds of late, divided by the weight.

The tenant with the lowest level goes first. Use decays by half in each half-life, so that a level speaks of the last
few half-lives and not of last year. A job that holds a slot counts with the seconds that it is expected to take, or
with those it has taken already where these are more: so one round does not give every free slot to the same tenant.
A tenant that begins to compete again starts at most ``credit_s`` below the lowest level of those that compete
(``returning``): time in which it wanted nothing is not saved up.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from .records import NO_ESTIMATE, STANDARD, Account, Holding, Rules


def decayed(used_s: float, elapsed_s: float, half_life_s: float) -> float:
    """Return the part of some GPU seconds that still counts.

    Example:
        ``decayed(100, 3600, 3600)`` is 50.
    """
    return used_s * 0.5 ** (max(0.0, elapsed_s) / half_life_s)


def returning(used_s: float, weight: float, levels: list[float], credit_s: float) -> float:
    """Return the use with which a tenant competes again.

    Args:
        used_s: Its own decayed use.
        weight: Its weight.
        levels: The levels of the tenants that compete already.
        credit_s: GPU seconds for a weight of 1 that it may be behind the lowest of them.
    """
    return max(used_s, weight * (min(levels) - credit_s)) if levels else used_s


class Shares:
    """Keeps the level of each tenant while a round is decided.

    Args:
        accounts: The standing of the tenants; a tenant without an entry has a weight of 1 and no use.
        holdings: The jobs that hold a slot now.
        rules: The operator's choices.
        at: The present time.
    """

    def __init__(
        self, accounts: Mapping[str, Account], holdings: Iterable[Holding], rules: Rules, at: datetime | None
    ) -> None:
        self._accounts, self._rules = accounts, rules
        self._used = {name: account.used_s for name, account in accounts.items()}
        self._preparing: dict[str, int] = {}
        for holding in holdings:
            if holding.gpu_type is None:
                self.charge(holding.tenant, None, NO_ESTIMATE)
                continue
            expected_s = holding.expected_s if holding.expected_s is not None else rules.unknown_s
            elapsed_s = holding.elapsed_s(at) if at else 0.0
            self._used[holding.tenant] = self._used.get(holding.tenant, 0.0) + max(expected_s, elapsed_s)

    def account(self, tenant: str) -> Account:
        """Return the standing of a tenant."""
        return self._accounts.get(tenant, STANDARD)

    def level(self, tenant: str, *, on_gpu: bool = True) -> tuple[float, float]:
        """Return the place of a tenant in the order; the lowest goes first.

        The slots that prepare data are shared by their number, since preparing takes minutes; use decides a tie.
        """
        weight = self.account(tenant).weight
        used = self._used.get(tenant, 0.0) / weight
        return (used, 0.0) if on_gpu else (self._preparing.get(tenant, 0) / weight, used)

    def charge(self, tenant: str, gpu_type: str | None, expected_s: Mapping[str, float], *, jobs: int = 1) -> None:
        """Count a job that gets a slot, or several that are alike.

        Args:
            tenant: Its tenant.
            gpu_type: The type of the slot; None for a prep slot.
            expected_s: The estimates of the job by GPU type.
            jobs: The number of the jobs.
        """
        if gpu_type is None:
            self._preparing[tenant] = self._preparing.get(tenant, 0) + jobs
            return
        seconds = expected_s.get(gpu_type) or max(expected_s.values(), default=self._rules.unknown_s)
        self._used[tenant] = self._used.get(tenant, 0.0) + jobs * seconds
