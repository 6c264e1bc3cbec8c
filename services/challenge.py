"""Finds the opponent of a job that competes for a champion, and decides by the gate if the job is promoted.

The present champion is loaded beside the challenger for the evaluation, so both answer the same rows on one loaded
base. The gate is judged when the job is published, in the same transaction that completes the job. If the champion
changed in between, the numbers compare the job with a former champion: the present champion stays, and the job is
evaluated once more.
"""

import logging
from typing import Any

from sqlalchemy.orm import Session

from ..errors import CeloraError, SettingsError, StorageError
from ..models import champions, ratings
from ..models.columns import (
    base_identity,
    evaluated_of,
    measured_sets,
    outcome_of,
    quantization_of,
    receipt_sets,
    rival_of,
)
from ..models.database import get_database
from ..models.promotion_gate import PREFERENCE, REQUIRED, Gate
from ..models.rows import lock_if
from ..models.scope.scope import Scope
from ..models.spec import stored_spec
from ..models.states import Status
from ..models.tables import Adapter, Job
from ..scheduling.promotion import Verdict, judge
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning.evaluation.measures import METRICS_VERSION, Line
from ..tuning.evaluation.result_rows import read
from ..tuning.protocol import Rival
from ..workers import messages
from ..workers.stages.claimed import ClaimedStage
from ..workers.stages.evaluate import SIDE, Opponent
from . import champions as verbs
from . import jobs

logger = logging.getLogger(__name__)


def opponent(stage: ClaimedStage) -> Opponent | None:
    """Find the opponent that a job under evaluation has to beat; None if the job competes for nothing."""
    name = stage.spec.champion
    if name is None:
        return None
    with stage.database.session(Scope.everything) as session:
        now_ = champions.find(session, stage.job.tenant, name)
        if now_ is None:
            return Opponent(name=name)
        adapter, theirs = session.get_one(Adapter, now_.job_id), session.get_one(Job, now_.job_id)
        session.expunge_all()
    known: dict[str, Any] = {"name": name, "version": now_.version, "job_id": now_.job_id}
    if now_.job_id == stage.job.id:
        return Opponent(**known, reason="it is the champion itself")
    fault = _other_base(stage.job, adapter)
    if fault:
        return Opponent(**known, reason=fault, warnings=[f"champion {name} was not measured: {fault}"])
    try:
        folder = stage.workspace.fetch(adapter.uri, "champion")
    except StorageError as error:
        fault = f"the adapter of job {now_.job_id} can't be read ({error.message.removesuffix('.')})"
        return Opponent(**known, reason=fault, warnings=[f"champion {name} was not measured: {fault}"])
    return Opponent(
        **known, rival=Rival(side=SIDE, adapter_dir=str(folder)), warnings=_oddities(name, stage.job, theirs)
    )


def decide(stage: ClaimedStage) -> dict[str, Any] | None:
    """Return the gate's decision about the job that is being published (``challenge``)."""
    with stage.database.session(Scope.everything) as session:
        return challenge(session, stage.job, stage.workspace.artifacts)


def challenge(session: Session, job: Job, artifacts: Artifacts) -> dict[str, Any] | None:
    """Judge the gate of an evaluated job; None if the job competes for nothing, or is the champion itself.

    Returns:
        The arguments of ``champions.settle``, and ``stale``: True if the champion changed since the evaluation.
    """
    spec = stored_spec(job.spec)
    if spec.champion is None:
        return None
    now_ = champions.find(session, job.tenant, spec.champion)
    holder = now_.job_id if now_ is not None else None
    if holder == job.id:
        return None
    met = rival_of(job)
    about = {"name": spec.champion, "expected": now_.version if now_ else 0, "against": holder, "stale": False}
    if met is None or met.job != holder:
        reason = f"the champion became {holder} after this job was evaluated, so the two were not compared"
        return {**about, "promote": False, "reason": reason, "figures": {}, "stale": True}
    if evaluated_of(job).metrics_version < METRICS_VERSION:
        reason = "the job was measured by an older version, whose numbers mean something else; it is measured again"
        return {**about, "promote": False, "reason": reason, "figures": {}, "stale": True}
    if holder and not met.compared:
        return {**about, "promote": False, "reason": met.reason, "figures": {}}
    votes = ratings.votes(session, job.tenant, job.id, holder or ratings.BASE)
    verdict = _verdict(spec.contest, job, artifacts, SIDE if holder else ratings.BASE, votes)
    against = f"against {holder}" if holder else "against the base"
    return {**about, "promote": verdict.promote, "reason": f"{against}: {verdict.reason}", "figures": verdict.figures}


def judge_again(job_id: str, *, tenant: str | None = None) -> dict[str, Any]:
    """Judge a completed job's challenge once more, by the measurements and ratings since; the job may become champion.

    Returns:
        ``promote``, ``reason``, ``figures``, ``name``.

    Raises:
        SettingsError: The job competes for nothing, is not completed, or is the champion already.
    """
    with get_database().session(Scope.everything if tenant is None else Scope.of(tenant)) as session:
        job = session.get(Job, job_id)
        if job is None or job.status is not Status.COMPLETED:
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
    if outcome["stale"]:
        _measure_again(job_id)
    return told


def conclude(job_id: str) -> None:
    """Announce a completed job's promotion; evaluate the job again if it was measured against a former champion."""
    with get_database().session(Scope.everything) as session:
        job = session.get(Job, job_id)
        if job is None or (outcome := outcome_of(job)) is None:
            return
        tenant = job.tenant
    if outcome.promote:
        verbs.spread(outcome.name, tenant)
    if outcome.stale:
        _measure_again(job_id)


def _measure_again(job_id: str) -> None:
    try:
        jobs.evaluate_again(job_id)
    except (CeloraError, *messages.UNREACHABLE) as error:
        logger.warning("job %s: `celora evaluate` would compare it with the new champion (%s)", job_id, error)


def compete_again(job_id: str) -> None:
    """Judge the challenge of a completed job by the numbers of its repeated evaluation, if the job has a challenge.

    A former champion becomes champion again by a person's hand only: a roll-back had its reason.
    """
    with get_database().session(Scope.everything) as session:
        job = session.get(Job, job_id)
        if job is None or champions.was_ever_champion(session, job.tenant, str(job.spec.get("champion")), job_id):
            return
        outcome = challenge(session, job, Artifacts(get_settings().artifacts))
    if outcome is not None and _settle(job_id, outcome) is not None:
        conclude(job_id)


def _settle(job_id: str, outcome: dict[str, Any]) -> dict[str, Any] | None:
    """Record the gate's decision under a lock; the judging, which may take seconds, holds no lock."""
    with get_database().transaction(Scope.everything) as session:
        taken = lock_if(session, job_id, Job.status == Status.COMPLETED)
        if taken is None:
            return None
        champions.settle(session, taken, outcome)
        return taken.summary.get("champion") if taken.summary is not None else None


def _verdict(gate: Gate, job: Job, artifacts: Artifacts, rival: str, votes: ratings.Votes) -> Verdict:
    sets = measured_sets(job)
    decisive = next((name for name in sets if name != REQUIRED), None)
    lines = _lines(artifacts, job, decisive) if decisive and gate.measured() else []
    required = _lines(artifacts, job, REQUIRED) if gate.must_pass and REQUIRED in sets else []
    dropped = int(receipt_sets(job).get(REQUIRED, {}).get("dropped") or 0)
    voted = votes if gate.metric == PREFERENCE else None
    return judge(gate, lines, rival=rival, must_pass=required, unasked=dropped, votes=voted)


def _lines(artifacts: Artifacts, job: Job, name: str) -> list[Line]:
    uri = evaluated_of(job).uri
    return read(artifacts.read_bytes(f"{uri}/rows.{name}.jsonl"))


def _other_base(job: Job, adapter: Adapter) -> str:
    """Return the reason why job and champion can't be measured on one loaded base; empty if they can."""
    base = base_identity(job)
    if (base.name, base.revision) == (adapter.base_name, adapter.base_revision):
        return ""
    return (
        f"the champion was trained on {adapter.base_name} at {adapter.base_revision}, this job on {base.name} "
        f"at {base.revision}, and only one base is loaded; a new base is made champion by hand "
        "(celora champion promote)"
    )


def _oddities(name: str, ours: Job, theirs: Job) -> list[str]:
    mine, yours = quantization_of(ours), quantization_of(theirs)
    if mine == yours:
        return []
    return [f"champion {name} was trained on a base in {yours} and is measured on this job's, in {mine}"]
