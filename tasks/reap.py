"""``celora.reap``: returns the jobs whose lease ran out to the queue, or ends those that tried often enough."""

import logging
from typing import Any

from ..models import transitions
from ..models.database import get_database
from ..models.states import Status
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.settings import get_settings
from ..workers import announce
from ..workers.carry import poke
from .base import task

logger = logging.getLogger(__name__)


@task("reap", ignore_result=True)
def reap(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Look for expired leases."""
    settings, database = get_settings(), get_database()
    with database.transaction() as session:
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
