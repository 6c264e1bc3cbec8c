"""A job that competes for a champion: whom it is measured against, and what the gate says in the end.

The champion of the moment is loaded beside the challenger when that is evaluated, so both answer the same rows on one
loaded base. The gate is judged when the job is published, in the same transaction that completes it. If the champion
changed in between, what was measured is about somebody else: the champion stays, and the job is evaluated once more.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from ..models import champions, journal, ratings
from ..models.database import get_database
from ..models.gate import PREFERENCE, REQUIRED, Gate
from ..models.spec import JobSpec
from ..models.states import Status
from ..models.tables import Adapter, Job
from ..scheduling.gate import Verdict, judge
from ..settings.errors import CeloraError, SettingsError, StorageError
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning.evaluated import Line, read
from ..tuning.protocol import Rival
from ..workers import sending
from ..workers.carry import Held
from . import champions as verbs
from . import submission

logger = logging.getLogger(__name__)

SIDE = "champion"
"""What the champion is called in metrics and rows."""


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """Whom a challenger is measured against.

    Attributes:
        name: Of the champion.
        version: Of the pointer; 0 where there is no champion yet and the base is to be beaten.
        job_id: The champion's job; None where there is none.
        rival: How it is loaded; None where it can't be measured in this process.
        reason: Why it can't.
        warnings: What is odd about the comparison.
    """

    name: str
    version: int = 0
    job_id: str | None = None
    rival: Rival | None = None
    reason: str = ""
    warnings: list[str] = field(default_factory=list[str])

    def facts(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """For the evaluation's record: whom the numbers are about."""
        compared = SIDE in metrics
        reason = self.reason or ("" if compared else "the champion could not be loaded (see the job's warnings)")
        return {
            "name": self.name,
            "version": self.version,
            "job": self.job_id,
            "compared": compared,
            "reason": reason if self.job_id and not compared else "",
        }


def opponent(held: Held) -> Opponent | None:
    """Whom a job that is being evaluated has to beat; None if it competes for nothing."""
    name = held.spec.champion
    if name is None:
        return None
    with held.database.session() as session:
        now_ = champions.find(session, held.job.tenant, name)
        if now_ is None:
            return Opponent(name=name)
        adapter, theirs = session.get_one(Adapter, now_.job_id), session.get_one(Job, now_.job_id)
        session.expunge_all()
    known: dict[str, Any] = {"name": name, "version": now_.version, "job_id": now_.job_id}
    if now_.job_id == held.job.id:
        return Opponent(**known, reason="it is the champion itself")
    fault = _other_base(held.job, adapter)
    if fault:
        return Opponent(**known, reason=fault, warnings=[f"champion {name} was not measured: {fault}"])
    try:
        folder = held.places.fetch(adapter.uri, "champion")
    except StorageError as error:
        fault = f"the adapter of job {now_.job_id} can't be read ({error.message.removesuffix('.')})"
        return Opponent(**known, reason=fault, warnings=[f"champion {name} was not measured: {fault}"])
    return Opponent(
        **known, rival=Rival(side=SIDE, adapter_dir=str(folder)), warnings=_oddities(name, held.job, theirs)
    )


def challenge(session: Session, job: Job, artifacts: Artifacts) -> dict[str, Any] | None:
    """What the gate of an evaluated job says; None if it competes for nothing, or is the champion itself.

    Returns:
        What ``champions.settle`` takes, and ``stale``: whether the champion changed since the evaluation.
    """
    spec = JobSpec.model_validate(job.spec)
    if spec.champion is None:
        return None
    now_ = champions.find(session, job.tenant, spec.champion)
    holder = now_.job_id if now_ is not None else None
    if holder == job.id:
        return None
    met: dict[str, Any] = (job.evaluation or {}).get("champion") or {}
    about = {"name": spec.champion, "expected": now_.version if now_ else 0, "against": holder, "stale": False}
    if not met or met.get("job") != holder:
        reason = f"the champion became {holder} after this job was evaluated, so the two were not compared"
        return {**about, "promote": False, "reason": reason, "figures": {}, "stale": True}
    if holder and not met.get("compared"):
        return {**about, "promote": False, "reason": str(met.get("reason")), "figures": {}}
    votes = ratings.votes(session, job.tenant, job.id, holder or ratings.BASE)
    verdict = _verdict(spec.contest, job, artifacts, SIDE if holder else ratings.BASE, votes)
    against = f"against {holder}" if holder else "against the base"
    return {**about, "promote": verdict.promote, "reason": f"{against}: {verdict.reason}", "figures": verdict.figures}


def judge_again(job_id: str, *, tenant: str | None = None) -> dict[str, Any]:
    """Judge a completed job's challenge once more, by what was measured and rated since; it may become champion.

    Returns:
        ``promote``, ``reason``, ``figures``, ``name``.

    Raises:
        SettingsError: The job competes for nothing, is not completed, or is the champion already.
    """
    with get_database().session() as session:
        job = session.get(Job, job_id)
        if job is None or job.status is not Status.COMPLETED or (tenant is not None and job.tenant != tenant):
            raise SettingsError(f"{job_id} is no completed job.", hint=f"See `celora status {job_id}`.")
        outcome = challenge(session, job, Artifacts(get_settings().artifacts))
    if outcome is None:
        raise SettingsError(
            f"job {job_id} competes for no champion, or is the champion already.",
            hint="A job names what it competes for: --champion NAME.",
        )
    told = _settle(job_id, outcome) or outcome
    if told["promote"]:
        verbs.spread(str(told["name"]), job.tenant)
    return told


def conclude(job_id: str) -> None:
    """After a job is completed: spread the news of a promotion; measure again what met a former champion."""
    with get_database().session() as session:
        job = session.get(Job, job_id)
        outcome: dict[str, Any] = ((job.summary if job else None) or {}).get("champion") or {}
        tenant = job.tenant if job else ""
    if outcome.get("promote"):
        verbs.spread(str(outcome["name"]), tenant)
    if outcome.get("stale"):
        try:
            submission.evaluate_again(job_id)
        except (CeloraError, *sending.UNREACHABLE) as error:
            logger.warning("job %s: `celora evaluate` would compare it with the new champion (%s)", job_id, error)


def compete_again(job_id: str) -> None:
    """After a completed job was evaluated once more: judge its challenge by the new numbers, if it has one.

    Who was champion before comes back by a person's hand only: a roll-back had its reason.
    """
    with get_database().session() as session:
        job = session.get(Job, job_id)
        if job is None or champions.was(session, job.tenant, str(job.spec.get("champion")), job_id):
            return
        outcome = challenge(session, job, Artifacts(get_settings().artifacts))
    if outcome is not None and _settle(job_id, outcome) is not None:
        conclude(job_id)


def _settle(job_id: str, outcome: dict[str, Any]) -> dict[str, Any] | None:
    """Write down what was judged; the judging itself, which may take seconds, holds no lock."""
    with get_database().transaction() as session:
        taken = journal.take(session, job_id, Job.status == Status.COMPLETED)
        if taken is None:
            return None
        champions.settle(session, taken, outcome)
        return (taken.summary or {}).get("champion")


def _verdict(gate: Gate, job: Job, artifacts: Artifacts, rival: str, votes: ratings.Votes) -> Verdict:
    sets: dict[str, Any] = (job.metrics or {}).get("sets") or {}
    decisive = next((name for name in sets if name != REQUIRED), None)
    lines = _lines(artifacts, job, decisive) if decisive and gate.measured() else []
    required = _lines(artifacts, job, REQUIRED) if gate.must_pass and REQUIRED in sets else []
    receipt: dict[str, Any] = (job.prepared or {}).get("receipt") or {}
    found: dict[str, dict[str, Any]] = receipt.get("sets") or {}
    dropped = int(found.get(REQUIRED, {}).get("dropped") or 0)
    voted = votes if gate.metric == PREFERENCE else None
    return judge(gate, lines, rival=rival, must_pass=required, unasked=dropped, votes=voted)


def _lines(artifacts: Artifacts, job: Job, name: str) -> list[Line]:
    uri = str((job.evaluation or {}).get("uri"))
    return read(artifacts.read_bytes(f"{uri}/rows.{name}.jsonl"))


def _other_base(job: Job, adapter: Adapter) -> str:
    """Why the two can't be measured on one loaded base; empty if they can."""
    base: dict[str, Any] = job.base or {}
    if (base.get("name"), base.get("revision")) == (adapter.base_name, adapter.base_revision):
        return ""
    return (
        f"the champion was trained on {adapter.base_name} at {adapter.base_revision}, this job on {base.get('name')} "
        f"at {base.get('revision')}, and only one base is loaded; a new base is made champion by hand "
        "(celora champion promote)"
    )


def _oddities(name: str, ours: Job, theirs: Job) -> list[str]:
    mine, yours = ((job.resolved or {}).get("quantization") for job in (ours, theirs))
    if mine == yours:
        return []
    return [f"champion {name} was trained on a base in {yours} and is measured on this job's, in {mine}"]
