"""``celora.evaluate``: a fresh process loads the adapter as its users will, checks it, measures it against its base."""

from functools import partial
from typing import Any

from ..models import transitions
from ..models.gate import REQUIRED
from ..models.states import Stage
from ..tuning.protocol import Base, EvaluateRequest, Rival
from ..tuning.recipe import Adjusted, ResolvedRecipe
from ..workers.carry import Held, carry, carry_again
from . import contest
from .base import task
from .prepare import hub_access


@task("evaluate")
def evaluate(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Evaluate and verify a job's adapter."""
    return carry(self.request, Stage.EVALUATE, job_id, attempt, _work)


@task("reevaluate")
def reevaluate(self: Any, job_id: str, serving_dtype: str | None = None) -> dict[str, Any]:
    """Evaluate a completed job once more; its metrics are renewed, its status stays.

    With a ``serving_dtype`` it is measured on the unquantized base in that dtype; the job's own metrics stay as well.
    """
    if serving_dtype:
        return carry_again(self.request, job_id, partial(_as_served, serving_dtype), transitions.measured_as_served)
    told = carry_again(self.request, job_id, _work)
    contest.compete_again(job_id)
    return told


def _work(held: Held) -> dict[str, Any]:
    met = contest.opponent(held)
    result = held.run(_request(held, met.rival if met else None))
    uri = held.places.upload("evaluation")
    kept = {key: value for key, value in {**result, "uri": uri}.items() if key != "metrics"}
    if met is not None:
        kept["champion"] = met.facts(result["metrics"])
    return {
        "metrics": result["metrics"],
        "evaluation": kept,
        "warnings": [*result["warnings"], *(met.warnings if met else [])],
    }


def _as_served(dtype: str, held: Held) -> dict[str, Any]:
    folder = f"evaluation-{dtype}"
    as_trained = _request(held, None).model_dump()
    request = {**as_trained, "serving_dtype": dtype, "out_dir": str(held.places.local(folder))}
    result = held.run(EvaluateRequest.model_validate(request))
    uri = held.places.upload(folder)
    return {"dtype": dtype, "metrics": result["metrics"], "warnings": result["warnings"], "uri": uri}


def _request(held: Held, rival: Rival | None) -> EvaluateRequest:
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
        rivals=[rival] if rival else [],
        whole_sets=[REQUIRED],
        seed=spec.seed or 0,
        out_dir=str(held.places.local("evaluation")),
        device="cuda" if held.device == "cuda" else "cpu",
    )
