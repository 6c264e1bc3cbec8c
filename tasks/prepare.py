"""``celora.prepare`` reads, checks, formats, splits and tokenizes the dataset of a job."""

from typing import Any

from ..models.states import Stage
from ..workers.stages.claimed import Report
from ..workers.stages.outcomes import finish
from ..workers.stages.prepare import prepare_data
from ..workers.stages.runner import claimed
from .base import task


@task("prepare")
def prepare(self: Any, job_id: str, attempt: int) -> Report:
    """Prepare a job's data."""
    with claimed(self.request, Stage.PREPARE, job_id, attempt) as stage:
        finish(stage, prepare_data(stage))
    return stage.report
