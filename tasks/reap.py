"""``celora.reap``: returns the jobs whose lease ran out to the queue, or ends those that tried often enough.

A lease that ran out means a lost worker only while the record could be reached: after an outage, its own too, the
reaper waits a whole lease, in which the living renew theirs.
"""

import logging
from typing import Any

from ..models import beacon, transitions
from ..models.database import get_database
from ..models.states import Status
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from ..workers import announce
from ..workers.carry import poke
from .base import task

logger = logging.getLogger(__name__)


@task("reap", ignore_result=True, send_events=False)
def reap(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Look for expired leases."""
    settings, database = get_settings(), get_database()
    with database.transaction() as session:
        watched_s = beacon.watch(session, "reaper", lapse_s=_lapse_s(settings))
        if watched_s < settings.lease_s:
            logger.info("the record was away or unwatched until %.0f s ago; leases get their full time", watched_s)
            return
        prices = {name: gpu.price_per_hour for name, gpu in gpu_catalogue(settings.gpus).items()}
        expired = transitions.expire(session, None, settings.max_attempts, prices=prices)
        ended = [job.id for job in expired if job.status is Status.FAILED]
        if expired:
            hit("reap.expired")
    if expired:
        hit("reap.committed")
    for job_id in ended:
        announce.announce(database, job_id)
    if expired:
        logger.warning("%d job(s) lost their worker", len(expired))
        poke()


def _lapse_s(settings: Settings) -> float:
    """The longest pause between two looks in which no lease that was renewed before and is after can run out."""
    return max(settings.lease_s - 2 * settings.heartbeat_s, 4 * settings.reaper_s)
