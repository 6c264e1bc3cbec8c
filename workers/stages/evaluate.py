"""Runs the stage ``evaluate``: a fresh process loads the adapter as users will, verifies it, and measures it.

The present champion is loaded beside the challenger, so both answer the same rows on one loaded base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...models.jobs.progress import Columns, ServingEvaluation
from ...models.jobs.stage_results import base_of, evaluation_columns, recipe_of, trained_of
from ...models.promotion_gate import REQUIRED
from ...tuning.protocol import EvaluateRequest, EvaluateResult, Rival
from ..trainer.requests import hub_access, owner_of
from . import parents
from .claimed import ClaimedStage, threads_of
from .runner import run_trainer

SIDE = "champion"
"""The champion's side in metrics and rows."""


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """The champion that a challenger is measured against.

    Attributes:
        name: Name of the champion.
        version: Version of the pointer; 0 where there is no champion yet and the challenger has to beat the base.
        job_id: The champion's job; None where there is none.
        rival: The champion's adapter for the trainer; None where the champion can't be measured in this process.
        reason: The reason why the champion can't be measured.
        warnings: Differences that impair the comparison.
    """

    name: str
    version: int = 0
    job_id: str | None = None
    rival: Rival | None = None
    reason: str = ""
    warnings: list[str] = field(default_factory=list[str])

    def facts(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts for the evaluation's record: the champion that the challenger was measured against."""
        compared = SIDE in metrics
        reason = self.reason or ("" if compared else "the champion could not be loaded (see the job's warnings)")
        return {
            "name": self.name,
            "version": self.version,
            "job": self.job_id,
            "compared": compared,
            "reason": reason if self.job_id and not compared else "",
        }


def evaluate_adapter(stage: ClaimedStage, opponent: Opponent | None) -> Columns:
    """Verify and measure the job's adapter, against its base and its opponent."""
    result = run_trainer(stage, evaluate_request(stage, opponent.rival if opponent else None), EvaluateResult)
    compared = opponent.facts(result.metrics) if opponent else None
    return {
        "metrics": result.metrics,
        "evaluation": evaluation_columns(result, stage.workspace.upload("evaluation"), compared),
        "warnings": [*result.warnings, *(opponent.warnings if opponent else [])],
    }


def evaluate_as_served(stage: ClaimedStage, dtype: str) -> ServingEvaluation:
    """Measure the job's adapter on the unquantized base in a dtype, as it will be served."""
    folder = f"evaluation-{dtype}"
    as_trained = evaluate_request(stage, None).model_dump()
    request = {**as_trained, "serving_dtype": dtype, "out_dir": str(stage.workspace.local(folder))}
    result = run_trainer(stage, EvaluateRequest.model_validate(request), EvaluateResult)
    uri = stage.workspace.upload(folder)
    return {"dtype": dtype, "metrics": result.metrics, "warnings": result.warnings, "uri": uri}


def evaluate_request(stage: ClaimedStage, rival: Rival | None) -> EvaluateRequest:
    """Build the request of the trainer process."""
    job, spec, settings, workspace = stage.job, stage.spec, stage.settings, stage.workspace
    trained = trained_of(job)
    return EvaluateRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=threads_of(stage),
        base=base_of(job),
        prepared_dir=str(workspace.fetch(str(job.prepared_uri), "prepared")),
        adapter_dir=str(workspace.fetch(trained.adapter_uri, "adapter")),
        recipe=recipe_of(job),
        metrics=list(spec.metrics),
        max_rows=spec.eval_max_rows,
        max_new_tokens=spec.eval_max_new_tokens,
        trainer_eval_loss=trained.eval_loss,
        reference=parents.folders(stage).get("reference"),
        rivals=[rival] if rival else [],
        whole_sets=[REQUIRED],
        seed=spec.seed or 0,
        out_dir=str(workspace.local("evaluation")),
        device="cuda" if stage.device == "cuda" else "cpu",
        owner=owner_of(job.tenant, settings),
    )
