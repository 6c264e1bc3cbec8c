"""Returns jobs whose lease ran out to the queue, or ends the jobs that have no attempt left.

An expired lease means a lost worker only while the record could be reached. After an outage, the reaper's own included,
and after a jump of the record's clock the reaper waits a whole lease, in which the living workers renew theirs.
"""

import logging

from ...models.database import Database, now
from ...models.jobs import reaper_watch, transitions
from ...models.jobs.future_times import correct_future_times
from ...models.scope.scope import Scope
from ...models.states import Status
from ...settings.failpoints import hit
from ...settings.gpus import gpu_catalogue
from ...settings.settings import Settings
from ...workers import results
from ...workers.messages import request_tick

logger = logging.getLogger(__name__)


def take_back_expired(database: Database, settings: Settings) -> int:
    """Take back the jobs whose lease ran out, announce those that end, and request a scheduling round.

    Returns:
        The number of jobs that lost their worker.
    """
    with database.transaction(Scope.everything) as session:
        watched_s = reaper_watch.watch(session, "reaper", lapse_s=_lapse_s(settings))
        if watched_s == 0 and (corrected := correct_future_times(session, now(session), lease_s=settings.lease_s)):
            logger.warning("the record's clock was set back: %d times in the future were corrected", corrected)
        if watched_s < settings.lease_s:
            logger.info("the record was away or unwatched until %.0f s ago; leases get their full time", watched_s)
            return 0
        prices = {name: gpu.price_per_hour for name, gpu in gpu_catalogue(settings.gpus).items()}
        expired = transitions.expire(session, None, settings.max_attempts, prices=prices)
        ended = [job.id for job in expired if job.status is Status.FAILED]
        if expired:
            hit("reap.expired")
    if not expired:
        return 0
    hit("reap.committed")
    for job_id in ended:
        results.announce(database, job_id)
    logger.warning("%d job(s) lost their worker", len(expired))
    request_tick()
    return len(expired)


def _lapse_s(settings: Settings) -> float:
    """Return the longest pause between two rounds in which no lease can expire that is renewed before and after it."""
    return max(settings.lease_s - 2 * settings.heartbeat_s, 4 * settings.reaper_s)
