"""Forecasts the starts of simulated jobs as the queue does when somebody asks, and measures the forecasts afterwards.

The estimates learn as those of the record do: the jobs of a kind that have ended correct the estimates of the jobs of
that kind that arrive later (``history``). Some jobs are forecast, evenly over the scenario, and none before
``HISTORY`` jobs have ended.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median

from .forecast import Group, forecast
from .history import correction
from .policy import effective_class, turn
from .records import Account, Holding, Rules, Waiting
from .slots import Slots

HISTORY = 10
"""Jobs that have ended before the first forecast."""
SAMPLES = 100
"""Jobs of a scenario that are forecast at most."""
LONGEST_QUEUE = 2_000
"""Waiting jobs up to which a start is forecast; the record counts the jobs of a longer queue in groups."""
LEAST_WAIT_S = 60.0
"""The shortest wait that is compared with its forecast."""
RUNS = 50
"""Ended jobs of one kind that count, the latest."""


class Forecasts:
    """The forecasts of one simulation.

    Args:
        jobs: The number of the scenario's jobs.
        rules: The operator's choices.
    """

    def __init__(self, jobs: int, rules: Rules) -> None:
        self._each, self._rules = max(1, jobs // SAMPLES), rules
        self._factors: dict[str, deque[float]] = {}
        self._ended = self._arrived = 0
        self._expected_s: dict[str, float] = {}
        self._compared: list[float] = []

    def corrected(self, job: Waiting, kind: str) -> Waiting:
        """Return a job that arrives, its estimates corrected by the jobs of its kind that have ended."""
        factor = correction(self._factors.get(kind, ())).factor
        return replace(job, expected_s={name: seconds * factor for name, seconds in job.expected_s.items()})

    def learn(self, kind: str, factor: float) -> None:
        """Note by which factor a job that ended took longer than the formula says."""
        self._ended += 1
        self._factors.setdefault(kind, deque(maxlen=RUNS)).append(factor)

    def make(
        self,
        arrived: Collection[str],
        waiting: Iterable[Waiting],
        holdings: Sequence[Holding],
        *,
        accounts: Mapping[str, Account],
        slots: Slots,
        at: datetime,
    ) -> None:
        """Forecast the starts of jobs that have just arrived and wait, if it is their turn to be forecast.

        Args:
            arrived: The jobs that have just arrived.
            waiting: Every job that waits.
            holdings: The jobs that hold a slot.
            accounts: The standing of the tenants.
            slots: The slots of the moment.
            at: The present time.
        """
        before, self._arrived = self._arrived, self._arrived + len(arrived)
        if self._ended < HISTORY or before // self._each == self._arrived // self._each:
            return
        jobs = list(waiting)
        if len(jobs) > LONGEST_QUEUE:
            return
        groups = [
            Group(
                job=job, job_class=effective_class(job, self._rules, at), turn=turn(job, self._rules, at),
                named=job.id in arrived,
            )
            for job in jobs
        ]  # fmt: skip
        starts = forecast(groups, holdings, accounts=accounts, slots=slots, rules=self._rules, at=at)
        self._expected_s |= {name: start.start_s for name, start in starts.items() if start.start_s is not None}

    def compare(self, job_id: str, waited_s: float) -> None:
        """Compare the forecast of a job that starts, if there is one, with the time that it waited."""
        expected_s = self._expected_s.pop(job_id, None)
        if expected_s is not None and waited_s >= LEAST_WAIT_S:
            self._compared.append(abs(expected_s - waited_s) / waited_s)

    @property
    def error(self) -> float | None:
        """The median error of the forecasts as a part of the wait; None where nothing could be compared."""
        return median(self._compared) if self._compared else None

    @property
    def compared(self) -> int:
        """The number of forecasts that were compared."""
        return len(self._compared)
