"""``celora.evaluate`` verifies and measures the adapter of a job; ``celora.reevaluate`` does so for a completed job."""

from typing import Any

from ..models.jobs.progress import record_evaluation, record_serving_evaluation
from ..models.scope.scope import Scope
from ..models.states import Stage
from ..services import challenge
from ..workers.stages.claimed import Report
from ..workers.stages.evaluate import evaluate_adapter, evaluate_as_served
from ..workers.stages.outcomes import finish
from ..workers.stages.runner import claimed, reopened
from .base import task


@task("evaluate")
def evaluate(self: Any, job_id: str, attempt: int) -> Report:
    """Evaluate and verify a job's adapter."""
    with claimed(self.request, Stage.EVALUATE, job_id, attempt) as stage:
        finish(stage, evaluate_adapter(stage, challenge.opponent(stage)))
    return stage.report


@task("reevaluate")
def reevaluate(self: Any, job_id: str, serving_dtype: str | None = None) -> Report:
    """Evaluate a completed job once more; its metrics are renewed, its status stays.

    With a ``serving_dtype`` the adapter is measured on the unquantized base in that dtype; the job's own metrics stay
    as well.
    """
    with reopened(self.request, job_id) as stage:
        if serving_dtype:
            served = evaluate_as_served(stage, serving_dtype)
            with stage.database.transaction(Scope.everything) as session:
                record_serving_evaluation(session, job_id, served)
            return stage.report
        values = evaluate_adapter(stage, challenge.opponent(stage))
        with stage.database.transaction(Scope.everything) as session:
            record_evaluation(session, job_id, values)
    challenge.compete_again(job_id)
    return stage.report
