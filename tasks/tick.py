"""``celora.tick``: one scheduling round. Gives free slots to waiting jobs and sends again what was lost on the way."""

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import history, transitions
from ..models.database import Database, get_database, now
from ..models.registry import obstacle
from ..models.states import Stage, Status
from ..models.tables import Job, Tenant, Worker
from ..scheduling import explain
from ..scheduling.policy import Decision, Holding, Node, Waiting, decide
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from ..workers import announce, queues
from ..workers.sending import PATIENT_S, attempt, heard
from .base import task
from .pipeline import Sending, queue_of, send

logger = logging.getLogger(__name__)


@task("tick", ignore_result=True, send_events=False)
def tick(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Run one scheduling round."""
    heard()
    settings, database = get_settings(), get_database()
    dispatch(database, settings)
    resend(database, settings)
    for job_id in _unannounced(database):
        announce.announce(database, job_id)


def dispatch(database: Database, settings: Settings) -> int:
    """Decide who gets a slot, record it, and send the messages after the commit.

    Returns:
        How many jobs were sent.
    """
    with database.transaction() as session:
        if not database.advisory_lock(session, "dispatch"):
            return 0  # another round is being decided right now, and it sees what we would see
        transitions.silence(session, max(3 * settings.heartbeat_s, settings.lease_s))
        decision = _decide(session, settings)
        sendings = [pair for release in decision.releases if (pair := _record(session, release)) is not None]
        transitions.explain_waits(session, decision.waits)
        if sendings:
            hit("tick.decided")
    if sendings:
        hit("tick.committed")
    for sending, stage in sendings:
        _send(sending, stage)
        hit("tick.sent")
    return len(sendings)


def resend(database: Database, settings: Settings) -> None:
    """Send again what was recorded as sent and never claimed; the claim makes a duplicate harmless.

    What nobody takes from its queue goes back to waiting, which tells why, and another GPU type may take it.
    """
    with database.transaction() as session:
        again: list[tuple[Sending, Stage]] = []
        read = _queues_that_are_read(session, settings)
        for job in history.undelivered(session, settings.claim_s):
            queue = queue_of(job.stage, job.gpu_type)
            if queue not in read:
                transitions.hand_back(session, job.id, job.attempt, job.stage, f"nobody takes work from {queue} now")
                continue
            publication = transitions.resend(session, job.id, job.attempt, job.stage, job.publication)
            if publication is not None:
                again.append((_sending(job.id, job.attempt, publication, job.gpu_type), job.stage))
    if again:
        hit("resend.committed")
    for sending, stage in again:
        _send(sending, stage)


def _queues_that_are_read(session: Session, settings: Settings) -> set[str]:
    """The queues that a worker reads which is online and takes work."""
    online = session.scalars(select(Worker).where(Worker.status == "online"))
    return {name for row in online if not obstacle(row, settings.foreign_memory_bytes) for name in row.queues}


def _decide(session: Session, settings: Settings) -> Decision:
    at = now(session)
    pending = list(session.scalars(select(Job).where(Job.status == Status.PENDING)))
    resting = {job.id: why for job in pending if (why := _rest(job, at))}
    waiting = [
        Waiting(
            id=job.id,
            tenant=job.tenant,
            stage=job.stage,
            gpu=job.gpu,
            priority=job.priority,
            created_at=job.created_at,
            recovered=job.recovered,
            memory_bytes=max(job.memory_bytes or 0, job.least_memory_bytes or 0) or None,
        )
        for job in pending
        if job.id not in resting
    ]
    holding = [
        Holding(
            tenant=job.tenant,
            gpu_type=job.gpu_type if job.stage.on_gpu else None,
            outside=job.queue == queues.FOREGROUND,
        )
        for job in session.scalars(
            select(Job).where(Job.status.in_((Status.QUEUED, Status.RUNNING)), Job.stage != Stage.PUBLISH)
        )
    ]
    nodes = [
        Node(
            kind=row.kind,
            gpu_type=row.gpu_type,
            memory_bytes=row.memory_bytes or 0,
            slots=row.slots,
            name=row.id,
            obstacle=obstacle(row, settings.foreign_memory_bytes),
        )
        for row in session.scalars(select(Worker).where(Worker.status == "online"))
    ]
    limits = {
        tenant.name: tenant.max_gpus or settings.max_gpus_per_tenant for tenant in session.scalars(select(Tenant))
    }
    decision = decide(waiting, nodes, holding, types=gpu_catalogue(settings.gpus), quota=limits)
    decision.waits |= resting
    return decision


def _rest(job: Job, at: datetime) -> str:
    """Why a pending job asks for no slot now; empty if it does."""
    if job.paused:
        return explain.paused(job.id)
    if job.not_before is not None and job.not_before > at:
        return explain.held_back((job.not_before - at).total_seconds(), job.faults or {})
    return ""


def _record(session: Session, release: Any) -> tuple[Sending, Stage] | None:
    job = session.get(Job, release.job_id)
    if job is None:
        return None
    queue = queue_of(release.stage, release.gpu_type)
    publication = transitions.send(session, job.id, job.attempt, release.stage, queue=queue, gpu_type=release.gpu_type)
    if publication is None:
        return None
    return _sending(job.id, job.attempt, publication, release.gpu_type), release.stage


def _sending(job_id: str, attempt: int, publication: int, gpu_type: str | None) -> Sending:
    return Sending(job_id=job_id, attempt=attempt, publication=publication, gpu_type=gpu_type)


def _send(what: Sending, stage: Stage) -> None:
    """Send it within a time; what did not get through is sent again when nobody claimed it."""
    attempt(lambda: send(what, stage), f"{stage} of job {what.job_id}", within_s=PATIENT_S)


def _unannounced(database: Database) -> list[str]:
    with database.session() as session:
        return [str(job_id) for job_id in history.unannounced(session)]
