"""Runs the scheduling round: gives free slots to waiting jobs, resends lost messages, and announces ended jobs.

The round decides and records in one transaction and sends after its commit. A message that is lost between the two is
sent again by a later round (``resend``); the claim makes a duplicate harmless. The caller passes the function that
sends, since the canvas belongs to the tasks.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...models import queries
from ...models.database import Database, now
from ...models.jobs import transitions
from ...models.jobs.expiry import expire_waiting
from ...models.queue.lane_reasons import LaneWait, record_lanes
from ...models.queue.waiting import LanePlace
from ...models.scope.scope import Scope
from ...models.states import Stage
from ...models.tables import Job
from ...models.workers import mark_silent_workers_offline, queues_that_are_read
from ...scheduling.policy import decide
from ...scheduling.records import Decision, Lane, ReasonsByMemory, Release
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...workers import queues, results
from ...workers.messages import PATIENT_S, attempt, request_tick, request_tick_later
from ..tenants.admission import apply_limits, ask_for_missing
from .queue_facts import QueueFacts, read_queue
from .shares import settle_use

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """The facts that the messages of one publication of a job need.

    Attributes:
        job_id: The job.
        attempt: Its attempt.
        publication: Number of times that messages were sent for the job; makes the ids of the messages unique.
        stage: The stage from which the job goes on.
        gpu_type: The type of the job's slot; None for prepare and publish.
        worker: The worker whose own queue the messages of the GPU stages go to; empty for the type's common queue.
        direct: True where that worker reads the common queue as well.
    """

    job_id: str
    attempt: int
    publication: int
    stage: Stage
    gpu_type: str | None
    worker: str = ""
    direct: bool = False


Send = Callable[[Sending], object]
DIRECT_S = 5.0
"""Seconds after which a message that prefers one worker goes to every worker of the type."""
SLACK_S = 0.2
"""Seconds after that time at which the round is requested that sends the message."""


def dispatch(database: Database, settings: Settings, send: Send) -> int:
    """Decide which jobs get a slot, record it, and send their messages after the commit.

    A job without a hold, of a program of an earlier version, gets one first and its slot in a second round.

    Returns:
        The number of jobs that were sent.
    """
    sent, again = _round(database, settings, send)
    return sent + (_round(database, settings, send)[0] if again else 0)


def _round(database: Database, settings: Settings, send: Send) -> tuple[int, bool]:
    """Run one round; return the number of jobs that were sent, and True if another round must follow at once."""
    apply_limits(database, settings)
    with database.transaction(Scope.everything) as session:
        if not database.advisory_lock(session, "dispatch"):
            return 0, False  # another round is being decided right now, from the same rows of the record
        at = now(session)
        mark_silent_workers_offline(session, max(3 * settings.heartbeat_s, settings.lease_s), at)
        expire_waiting(session, at)
        facts = read_queue(session, settings, at)
        settle_use(session, facts.standing, facts.rules, facts.at)
        decision = decide_on(facts)
        unheld = ask_for_missing(session, [release.job_id for release in decision.releases])
        recorded = [_record(session, release) for release in decision.releases if release.job_id not in unheld]
        sendings = [sending for sending in recorded if sending is not None]
        for preemption in decision.preemptions:
            transitions.request_preemption(session, preemption.job_id, preemption.for_job)
        if not decision.unfinished:
            record_lanes(session, _waits_of(decision.lanes))
        if sendings:
            hit("tick.decided")
    if sendings:
        hit("tick.committed")
    for sending in sendings:
        _send(sending, send)
        hit("tick.sent")
    if decision.unfinished:
        request_tick()
    return len(sendings), bool(unheld)


def resend(database: Database, settings: Settings, send: Send) -> None:
    """Send again the messages that nobody claimed in time.

    A job whose queue no worker reads returns to waiting: it then has a reason, and another GPU type may take it. A job
    that was sent to the worker with its base goes to the common queue, if that worker does not take it within seconds:
    while such a message waits, the next round is requested for the time at which it is late, and does not wait for the
    timer.
    """
    direct_s = min(settings.claim_s, DIRECT_S)
    with database.transaction(Scope.everything) as session:
        again: list[Sending] = []
        late = queries.undelivered(session, settings.claim_s, direct_s)
        read = queues_that_are_read(session, settings.foreign_memory_bytes) if late else set[str]()
        for job in late:
            if queues.direct_worker_of(job.queue):
                publication = transitions.reroute(session, job.id, job.attempt, job.stage, job.publication)
                if publication is not None:
                    again.append(_sending(job, publication, job.stage, job.gpu_type))
                continue
            queue = queues.queue_of(job.stage, job.gpu_type, queues.worker_of(job.queue))
            if queue not in read:
                transitions.hand_back(session, job.id, job.attempt, job.stage, f"nobody takes work from {queue} now")
                continue
            publication = transitions.resend(session, job.id, job.attempt, job.stage, job.publication)
            if publication is not None:
                again.append(_sending(job, publication, job.stage, job.gpu_type))
        oldest = queries.oldest_direct(session)
        left_s = None if oldest is None else (oldest + timedelta(seconds=direct_s) - now(session)).total_seconds()
    if again:
        hit("resend.committed")
    for sending in again:
        _send(sending, send)
    if left_s is not None:
        request_tick_later(max(left_s, 0.0) + SLACK_S)


def announce_ended(database: Database) -> None:
    """Announce the jobs that ended while the broker was away, or whose worker died before it announced them."""
    with database.session(Scope.everything) as session:
        ended = [str(job_id) for job_id in queries.unannounced(session)]
    for job_id in ended:
        results.announce(database, job_id)


def decide_round(session: Session, settings: Settings) -> Decision:
    """Read jobs, workers and tenants from the record, and decide by the policy."""
    return decide_on(read_queue(session, settings, now(session)))


def decide_on(facts: QueueFacts) -> Decision:
    """Decide a round over the records that were read."""
    return decide(
        facts.jobs,
        facts.nodes,
        facts.holdings,
        types=facts.types,
        accounts=facts.standing.accounts,
        rules=facts.rules,
        at=facts.at,
        lanes=facts.lanes,
        cut=facts.cut,
    )


def _waits_of(lanes: Mapping[Lane, ReasonsByMemory]) -> dict[LanePlace, list[LaneWait]]:
    """Word the reasons of the lanes; lanes that are alike share the object of their reasons, which is worded once."""
    worded = {id(whys): whys for whys in lanes.values()}
    waits = {key: _lane_waits(whys) for key, whys in worded.items()}
    return {lane: waits[id(whys)] for lane, whys in lanes.items()}


def _lane_waits(whys: ReasonsByMemory) -> list[LaneWait]:
    return [
        LaneWait(above_bytes=above, code=why.code, facts=dict(why.facts), sentence=why.sentence())
        for above, why in whys
    ]


def _record(session: Session, release: Release) -> Sending | None:
    number = session.scalar(select(Job.attempt).where(Job.id == release.job_id))
    if number is None:
        return None
    queue = queues.queue_of(release.stage, release.gpu_type, release.worker, direct=release.direct)
    job_id, gpu_type = release.job_id, release.gpu_type
    chosen = asdict(release.choice) if release.choice else None
    publication = transitions.send(
        session, job_id, number, release.stage, queue=queue, gpu_type=gpu_type, chosen=chosen, estimated=True
    )
    if publication is None:
        return None
    return Sending(
        job_id=job_id, attempt=number, publication=publication, stage=release.stage, gpu_type=gpu_type,
        worker=release.worker, direct=release.direct,
    )  # fmt: skip


def _sending(job: Job, publication: int, stage: Stage, gpu_type: str | None) -> Sending:
    return Sending(
        job_id=job.id, attempt=job.attempt, publication=publication, stage=stage, gpu_type=gpu_type,
        worker=queues.worker_of(job.queue),
    )  # fmt: skip


def _send(sending: Sending, send: Send) -> None:
    """Send the messages within a deadline; a later round resends the messages that did not get through."""
    attempt(lambda: send(sending), f"{sending.stage} of job {sending.job_id}", within_s=PATIENT_S)
