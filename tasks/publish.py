"""``celora.publish`` publishes the checked adapter of a job, and settles its challenge of a champion."""

import logging
from typing import Any

from ..errors import CeloraError
from ..models.database import get_database
from ..models.states import Stage
from ..services import challenge
from ..services.openai.result_file import write_result
from ..settings.settings import get_settings
from ..workers.stages.claimed import Report
from ..workers.stages.outcomes import finish
from ..workers.stages.publish import publish_adapter
from ..workers.stages.runner import claimed
from .base import task

logger = logging.getLogger(__name__)


@task("publish")
def publish(self: Any, job_id: str, attempt: int) -> Report:
    """Publish a job's adapter. The file of its results comes first: whoever sees a job completed finds the file."""
    with claimed(self.request, Stage.PUBLISH, job_id, attempt) as stage:
        published = publish_adapter(stage, challenge.decide(stage))
        write_result(get_database(), get_settings(), job_id)
        finish(stage, published)
    try:
        challenge.conclude(job_id)
    except CeloraError as error:
        logger.warning("job %s is completed; what follows its completion waits (%s)", job_id, error)
    return stage.report
