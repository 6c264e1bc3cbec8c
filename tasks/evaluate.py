"""``celora.evaluate``: a fresh process loads the adapter as its users will, checks it, measures it against its base."""

from typing import Any

from ..models.states import Stage
from ..tuning.protocol import Base, EvaluateRequest
from ..tuning.recipe import Adjusted, ResolvedRecipe
from ..workers.carry import Held, carry, carry_again
from .base import task
from .prepare import hub_access


@task("evaluate")
def evaluate(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Evaluate and verify a job's adapter."""
    return carry(self.request, Stage.EVALUATE, job_id, attempt, _work)


@task("reevaluate")
def reevaluate(self: Any, job_id: str) -> dict[str, Any]:
    """Evaluate a completed job once more; its metrics are renewed, its status stays."""
    return carry_again(self.request, job_id, _work)


def _work(held: Held) -> dict[str, Any]:
    result = held.run(_request(held))
    uri = held.places.upload("evaluation")
    return {
        "metrics": result["metrics"],
        "evaluation": {key: value for key, value in {**result, "uri": uri}.items() if key != "metrics"},
        "warnings": result["warnings"],
    }


def _request(held: Held) -> EvaluateRequest:
    job, spec, settings = held.job, held.spec, held.settings
    trained = job.result or {}
    return EvaluateRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(held.settings),
        threads=settings.trainer_threads,
        base=Base.model_validate(job.base),
        prepared_dir=str(held.places.fetch(str(job.prepared_uri), "prepared")),
        adapter_dir=str(held.places.fetch(str(trained["adapter_uri"]), "adapter")),
        recipe=ResolvedRecipe.model_validate(job.resolved).within(Adjusted.model_validate(job.adjusted or {})),
        metrics=list(spec.metrics),
        max_rows=spec.eval_max_rows,
        max_new_tokens=spec.eval_max_new_tokens,
        trainer_eval_loss=trained.get("eval_loss"),
        seed=spec.seed or 0,
        out_dir=str(held.places.local("evaluation")),
        device="cuda" if held.device == "cuda" else "cpu",
    )
