"""Explains a waiting job: the steps in which its turn is decided, number by number, in the order of a round."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from ...errors import SettingsError
from ...models import queries
from ...models.database import get_database
from ...models.scope.scope import Scope
from ...models.states import Status
from ...models.tables import Job
from ...models.tables.types import JsonObject
from ...scheduling.forecast import Group
from ...scheduling.policy import aged
from ...settings.settings import get_settings
from ..tenants.wait_words import words_of
from .explanations import Explanation, Step
from .line import Line, read_line
from .listing import OTHERS, entries, heads_of

__all__ = ["why"]

HOUR_S = 3600


def why(job_id: str, *, scope: Scope = Scope.everything) -> Explanation:
    """Explains why a job waits: its place, and the steps in which its turn is decided.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: The job does not wait.
    """
    with get_database().session(scope) as session:
        job = queries.get_job(session, job_id)
        if job.status is not Status.PENDING:
            raise SettingsError(f"job {job_id} is {job.status}; it does not wait.", hint=f"celora status {job_id}")
    with get_database().session(Scope.everything) as session:
        line = read_line(session, get_settings(), heads_of(session, [job_id]))
        entry = next(iter(entries(session, line, [job_id], scope)), None)
        if entry is None:
            raise SettingsError(f"job {job_id} does not wait any more.", hint=f"celora status {job_id}")
        return Explanation(entry=entry, steps=list(_steps(line, job, scope)), chosen=job.chosen)


def _steps(line: Line, job: Job, scope: Scope) -> Iterable[Step]:
    mine = next((group for group in line.groups if group.named and group.job.id == job.id), None)
    if mine is None:
        return
    yield _limits(line, mine, scope)
    yield _slots(line, mine)
    yield _class(line, mine)
    yield _recovered(line, mine)
    yield _share(line, mine, scope)
    yield _priority(line, mine)
    yield _age(line, mine)


def _limits(line: Line, mine: Group, scope: Scope) -> Step:
    account = line.facts.standing.accounts.get(mine.job.tenant)
    holds = line.slots.held_by.get(mine.job.tenant, 0)
    facts: JsonObject = {
        "gpus": holds, "max_gpus": account.max_gpus if account else None,
        "jobs_at_work": account.working if account else 0, "max_jobs": account.max_jobs if account else None,
    }  # fmt: skip
    stopped = line.slots.stopped(mine.job.tenant, account, on_gpu=mine.job.stage.on_gpu) if account else None
    of_gpus = f" of {facts['max_gpus']}" if facts["max_gpus"] is not None else ""
    words = f"its tenant holds {holds}{of_gpus} GPU slots; no limit of the tenant keeps the job back"
    if stopped:  # the sentence for operators names a setting
        words = stopped.sentence() if scope.tenant is None else words_of(stopped.code, stopped.facts)
    return Step(rule="limits", facts=facts, words=words)


def _slots(line: Line, mine: Group) -> Step:
    job = mine.job
    types = [job.gpu] if job.gpu != "auto" else line.slots.fitting(job)
    wanted: list[str | None] = list(types) if job.stage.on_gpu else [None]
    pools = [pool for name in wanted for pool in line.slots.usable(job, name)]
    total, used = sum(pool.total for pool in pools), sum(min(pool.used, pool.total) for pool in pools)
    named = ", ".join(types) if job.stage.on_gpu else "prep"
    words = f"{total} slots that it could take ({named}), {used} of them taken" if total else "no worker could take it"
    return Step(
        rule="slots", facts={"types": types if job.stage.on_gpu else [], "total": total, "used": used}, words=words
    )


def _class(line: Line, mine: Group) -> Step:
    before = _count(line, lambda group: _same_slots(group, mine) and group.job_class.rank < mine.job_class.rank)
    own = mine.job.job_class
    lifted = f" (counts as {mine.job_class}, since it has waited long)" if own is not mine.job_class else ""
    words = f"class {own}{lifted}: {before} jobs of a higher class come first"
    return Step(
        rule="class", facts={"class": own.value, "counts_as": mine.job_class.value, "before": before}, words=words
    )


def _recovered(line: Line, mine: Group) -> Step:
    before = 0
    if not mine.job.recovered:
        rivals = replace(mine, job=replace(mine.job, recovered=True))
        before = _count(line, lambda group: _same_rank(group, rivals))
    words = (
        "it ran before: it goes to the front of its class"
        if mine.job.recovered
        else f"{before} jobs ran before and come first"
    )
    return Step(rule="recovered", facts={"recovered": mine.job.recovered, "before": before}, words=words)


def _share(line: Line, mine: Group, scope: Scope) -> Step:
    """Compare the tenants that have jobs of the same rank: the lowest level goes first."""
    rivals = {mine.job.tenant} | {group.job.tenant for group in line.groups if _same_rank(group, mine)}
    levels = {name: line.shares.level(name, on_gpu=mine.job.stage.on_gpu)[0] for name in rivals}
    own, lower = levels[mine.job.tenant], sum(each < levels[mine.job.tenant] for each in levels.values())
    account = line.shares.account(mine.job.tenant)
    facts: JsonObject = {
        "weight": account.weight, "used_gpu_hours": round(account.used_s / HOUR_S, 3),
        "level_gpu_hours": round(own / HOUR_S, 3), "tenants": len(rivals), "lower": lower,
    }  # fmt: skip
    if scope.tenant is None:
        facts["levels"] = {
            name: round(level / HOUR_S, 3) for name, level in sorted(levels.items(), key=lambda one: one[1])
        }
    words = (
        f"its tenant used {facts['used_gpu_hours']:g} GPU hours of late; with what runs, by its weight of "
        f"{account.weight:g}, it is at {facts['level_gpu_hours']:g}: {lower} of "
        f"{len(rivals) - 1} {OTHERS} are lower and go first"
    )
    return Step(rule="share", facts=facts, words=words)


def _priority(line: Line, mine: Group) -> Step:
    before = _count(line, lambda group: _same_line(group, mine) and group.turn[:2] < mine.turn[:2])
    words = (
        f"priority {mine.job.priority}: {before} jobs of its tenant come first by priority, or since they waited long"
    )
    return Step(rule="priority", facts={"priority": mine.job.priority, "before": before}, words=words)


def _age(line: Line, mine: Group) -> Step:
    rules, at = line.facts.rules, line.facts.at
    before = _count(
        line, lambda group: _same_line(group, mine) and group.turn[:2] == mine.turn[:2] and group.turn < mine.turn
    )
    waited_s = (at - mine.job.created_at).total_seconds()
    ages = (
        "it has aged: it comes before every younger job of its tenant"
        if aged(mine.job, rules, at)
        else (f"after {rules.aging_s / HOUR_S:g} h it comes before every younger job of its tenant")
    )
    words = f"{before} jobs of its tenant with the same priority are older; {ages}"
    return Step(
        rule="age", facts={"waited_s": round(waited_s, 1), "aging_s": rules.aging_s, "before": before}, words=words
    )


def _count(line: Line, comes_first: Callable[[Group], bool]) -> int:
    return sum(group.jobs for group in line.groups if comes_first(group))


def _same_slots(group: Group, mine: Group) -> bool:
    return group.job.stage.on_gpu is mine.job.stage.on_gpu


def _same_rank(group: Group, mine: Group) -> bool:
    return _same_slots(group, mine) and group.job_class is mine.job_class and group.job.recovered is mine.job.recovered


def _same_line(group: Group, mine: Group) -> bool:
    return group.job.tenant == mine.job.tenant and _same_rank(group, mine)
