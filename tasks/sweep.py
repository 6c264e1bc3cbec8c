"""``celora.sweep``: the only one that deletes, on this machine: scratch of ended jobs, prepared data nobody uses."""

import logging
import shutil
from typing import Any

from ..models.database import get_database
from ..models.tables import Job
from ..settings.settings import get_settings
from ..tuning import reuse
from ..workers.markers import Markers
from . import champions
from .base import task

logger = logging.getLogger(__name__)


@task("sweep", ignore_result=True)
def sweep(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Remove what no live job needs."""
    settings = get_settings()
    Markers(settings.home / "run").sweep()
    if gone := reuse.sweep(settings.cache, settings.keep_prepared_days):
        logger.info("swept %d prepared datasets that nobody used", gone)
    champions.mend(get_database(), settings)
    if not settings.scratch.exists():
        return
    with get_database().session() as session:
        for folder in settings.scratch.iterdir():
            job = session.get(Job, folder.name)
            if job is not None and job.status.final:
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("swept the scratch of job %s", folder.name)
