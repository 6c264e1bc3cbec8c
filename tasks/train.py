"""``celora.train`` trains the adapter of a job in a supervised process."""

from typing import Any

from ..models.states import Stage
from ..workers.stages.claimed import Report
from ..workers.stages.outcomes import finish
from ..workers.stages.resident import keep_here
from ..workers.stages.runner import claimed
from ..workers.stages.train import train_adapter
from .base import task


@task("train")
def train(self: Any, job_id: str, attempt: int) -> Report:
    """Train a job's adapter."""
    with claimed(self.request, Stage.TRAIN, job_id, attempt) as stage:
        values = train_adapter(stage)
        finish(stage, values, following_queue=keep_here(self.request, stage))
    return stage.report
