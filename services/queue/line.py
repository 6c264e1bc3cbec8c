"""Finds the place of waiting jobs in the queue and forecasts their start, when somebody asks.

A round writes neither places nor times, since every start of a job would change those of all behind it. A short queue
is read row by row; of a long one the jobs are counted in groups (``models.queue.groups``), and only the jobs that are
asked for are read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...models.columns import Progress
from ...models.database import now
from ...models.queue.groups import GroupCount, all_heads, count_groups
from ...models.queue.history import recent_factors
from ...models.queue.waiting import Head
from ...models.states import JobClass, Stage, Status
from ...models.tables import Job
from ...scheduling.fair_share import Shares
from ...scheduling.forecast import Group, Start, anybody, forecast
from ...scheduling.history import Correction, correction
from ...scheduling.policy import BEGINNING, effective_class, turn
from ...scheduling.records import Holding, Rules, Waiting
from ...scheduling.slots import Slots
from ...settings.settings import Settings
from ..rounds.queue_facts import QueueFacts, read_queue, waiting_of

FARTHEST_S = 100 * 365 * 86400.0
"""The farthest start that is shown. A job may ask for more steps than any device can do before the calendar ends."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a job that waits for a slot.

    Attributes:
        position: Its place among the jobs that wait for a slot which it could take; 1 is next.
        ahead: The jobs before it, by tenant.
        earliest_at: The earliest time at which it is expected to start; None where no worker online could run it.
        latest_at: The latest such time.
    """

    position: int
    ahead: Mapping[str, int]
    earliest_at: datetime | None
    latest_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The queue of one moment.

    Attributes:
        facts: The workers, the held slots and the tenants.
        slots: The slots, as a round counts them.
        groups: The waiting jobs.
        starts: The forecast of the jobs that were asked for.
        shares: The level of each tenant.
        spread: The range in which the last jobs took the time that was expected of them; so wide is a forecast.
    """

    facts: QueueFacts
    slots: Slots
    groups: Sequence[Group]
    starts: Mapping[str, Start]
    shares: Shares
    spread: Correction

    def place(self, job_id: str) -> Place | None:
        """Return the place of a job; None where it waits for something else than a slot."""
        start = self.starts.get(job_id)
        if start is None:
            return None
        soonest, latest = (self._after(start.start_s, factor) for factor in (self.spread.low, self.spread.high))
        return Place(position=start.position, ahead=start.ahead, earliest_at=soonest, latest_at=latest)

    def _after(self, seconds: float | None, factor: float) -> datetime | None:
        return None if seconds is None else self.facts.at + timedelta(seconds=min(factor * seconds, FARTHEST_S))


def read_line(session: Session, settings: Settings, wanted: Sequence[Head]) -> Line:
    """Read the queue and forecast the start of some jobs.

    Args:
        session: An open session of all tenants.
        settings: Settings of the installation.
        wanted: The jobs whose start is wanted.
    """
    facts = read_queue(session, settings, now(session), jobs=False)
    holdings = _with_progress(session, facts)
    slots = Slots(facts.nodes, holdings, facts.types, facts.rules, facts.at)
    groups = read_groups(session, facts, wanted)
    starts = forecast(
        groups, holdings, accounts=facts.standing.accounts, slots=slots, rules=facts.rules, at=facts.at
    )  # fmt: skip
    shares = Shares(facts.standing.accounts, holdings, facts.rules, facts.at)
    spread = correction(recent_factors(session))
    return Line(facts=facts, slots=slots, groups=groups, starts=starts, shares=shares, spread=spread)


def read_groups(session: Session, facts: QueueFacts, wanted: Sequence[Head]) -> list[Group]:
    """Read the waiting jobs as groups, each wanted job as a group of its own."""
    names = {row.id for row in wanted}
    rows = all_heads(session, facts.at)
    if rows is not None:
        return [_of_one(waiting_of(row), facts, named=row.id in names) for row in rows]
    alone = [_of_one(waiting_of(row), facts, named=True) for row in wanted]
    reference = (wanted[0].created_at, wanted[0].id) if len(wanted) == 1 else None
    aged_before = facts.at - timedelta(seconds=facts.rules.aging_s)
    counts = count_groups(session, facts.at, aged_before=aged_before, reference=reference)
    return [*alone, *_without(counts, alone, facts.rules, reference=reference is not None)]


def _of_one(job: Waiting, facts: QueueFacts, *, named: bool) -> Group:
    place = (effective_class(job, facts.rules, facts.at), turn(job, facts.rules, facts.at))
    return Group(job=job, job_class=place[0], turn=place[1], named=named)


def _without(counts: Iterable[GroupCount], alone: Sequence[Group], rules: Rules, *, reference: bool) -> list[Group]:
    """Make groups of counts, less the jobs that stand alone; where several do, these are the oldest of their group."""
    taken: Counter[tuple[object, ...]] = Counter()
    last: dict[tuple[object, ...], datetime] = {}
    for group in alone:
        key = (*group.job.lane, group.job.recovered, *group.turn[:2])
        taken[key] += 1
        last[key] = max(last.get(key, BEGINNING), group.job.created_at)
    found: list[Group] = []
    for count in counts:
        group = _group_of(count, rules)
        key = (*group.job.lane, group.job.recovered, *group.turn[:2])
        less = 0 if count.older else taken.pop(key, 0)
        if not reference and key in last:
            group = replace(group, turn=(*group.turn[:2], max(last[key], count.first_at), ""))
        if count.jobs > less:
            found.append(replace(group, jobs=count.jobs - less))
    return found


def _group_of(count: GroupCount, rules: Rules) -> Group:
    """Make the group of a count; the estimate of its hold stands for the seconds on every GPU type."""
    seconds = rules.unknown_s if count.hold_ms is None else float(count.hold_ms) / 1000
    job = replace(
        anybody(count.tenant, count.stage, count.gpu, count.labels, recovered=count.recovered),
        job_class=count.job_class, created_at=count.first_at, memory_bytes=int(count.memory_bytes or 0) or None,
        expected_s={"*": seconds},
    )  # fmt: skip
    lifted = count.aged and count.job_class is JobClass.BACKGROUND
    place = (not count.aged, 0 if count.aged else -count.priority, count.first_at, "")
    return Group(job=job, job_class=JobClass.NORMAL if lifted else job.job_class, turn=place, jobs=count.jobs)


def _with_progress(session: Session, facts: QueueFacts) -> list[Holding]:
    """Return the held slots; a job that trains counts with the time that its trainer expects to need."""
    running = select(Job.id, Job.progress).where(Job.status == Status.RUNNING, Job.stage == Stage.TRAIN)
    left = {job_id: found.eta_s for job_id, kept in session.execute(running) if (found := Progress.read(kept))}
    return [
        holding
        if (eta_s := left.get(holding.job_id)) is None
        else replace(holding, expected_s=holding.elapsed_s(facts.at) + eta_s)
        for holding in facts.holdings
    ]
