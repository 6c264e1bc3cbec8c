"""Gives a job OpenAI's form. Everything of celora's own stands under ``celora``, so strict clients accept the rest.

The form has no status ``paused``: a paused job reads ``queued``, with ``celora.status`` saying the truth.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ...models.states import Stage, Status
from ...services.openai.jobs import DATA_CODES, Found
from ..pages import Listed

Phase = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
Auto = Literal["auto"]
ENDED: dict[Status, Phase] = {
    Status.COMPLETED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


class Hyperparameters(BaseModel):
    """The hyperparameters: what was asked until training begins, then what is in force."""

    n_epochs: Auto | int
    batch_size: Auto | int
    learning_rate_multiplier: Auto | float


class SupervisedObject(BaseModel):
    """The method ``supervised``."""

    hyperparameters: Hyperparameters


class DpoHyperparameters(Hyperparameters):
    """The hyperparameters of training from preferences."""

    beta: Auto | float


class DpoObject(BaseModel):
    """The method ``dpo``."""

    hyperparameters: DpoHyperparameters


class SupervisedMethod(BaseModel):
    """The method of a job that trains on answers; kto and orpo, which the form does not have, read so too."""

    type: Literal["supervised"] = "supervised"
    supervised: SupervisedObject


class DpoMethod(BaseModel):
    """The method of a job that trains on preferences."""

    type: Literal["dpo"] = "dpo"
    dpo: DpoObject


class JobErrorObject(BaseModel):
    """The reason why a job failed."""

    code: str
    message: str
    param: str | None


class Own(BaseModel):
    """The facts of a job that OpenAI's form has no place for."""

    status: str
    stage: str
    method: str
    continue_from: str | None
    reason: str
    gpu: str
    gpu_type: str | None
    priority: int
    attempt: int
    step: int
    steps: int | None
    loss: float | None
    eta_s: float | None
    cost: float
    gpu_seconds: float
    warnings: list[str]
    settings: dict[str, Any]


class JobObject(Listed):
    """A job as clients read it."""

    model_config = ConfigDict(protected_namespaces=())

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Phase
    error: JobErrorObject | None
    hyperparameters: Hyperparameters
    method: SupervisedMethod | DpoMethod
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    estimated_finish: int | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    celora: Own


def job_object(found: Found, now: float) -> JobObject:
    """Make the object of a job.

    Args:
        found: The job.
        now: The present time, seconds since 1970, for the estimate of its end.
    """
    job, chosen = found.view, hyperparameters(found)
    return JobObject(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        finished_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        model=found.model,
        fine_tuned_model=found.model_id if job.status is Status.COMPLETED else None,
        organization_id=job.tenant,
        status=phase(found),
        error=_error(found),
        hyperparameters=chosen,
        method=_method(found, chosen),
        training_file=found.training_file,
        validation_file=found.validation_file,
        result_files=found.result_files,
        trained_tokens=found.tokens,
        seed=int(found.spec.get("seed") or 0),
        estimated_finish=_estimate(found, now),
        integrations=_integrations(found),
        metadata=found.spec.get("metadata") or None,
        user_provided_suffix=found.spec.get("suffix") or None,
        celora=_own(found),
    )


def _integrations(found: Found) -> list[dict[str, Any]] | None:
    named: dict[str, str] = found.spec.get("wandb") or {}
    if not named.get("project"):
        return None
    tags = named["tags"].split(",") if named.get("tags") else None
    run = {"project": named["project"], "name": named.get("name"), "entity": named.get("entity"), "tags": tags}
    return [{"type": "wandb", "wandb": run}]


def _method(found: Found, chosen: Hyperparameters) -> SupervisedMethod | DpoMethod:
    if found.spec.get("method") != "dpo":
        return SupervisedMethod(supervised=SupervisedObject(hyperparameters=chosen))
    beta = found.spec.get("beta") if found.resolved else found.asked.get("beta") or "auto"
    with_beta = DpoHyperparameters.model_validate({**chosen.model_dump(), "beta": beta})
    return DpoMethod(dpo=DpoObject(hyperparameters=with_beta))


def phase(found: Found) -> Phase:
    """Translate the status of a job."""
    job = found.view
    if job.status in ENDED:
        return ENDED[job.status]
    if job.paused:
        return "queued"
    if job.stage is Stage.PREPARE:
        return "validating_files"
    if job.status is Status.RUNNING or job.stage in (Stage.EVALUATE, Stage.PUBLISH):
        return "running"
    return "queued"


def hyperparameters(found: Found) -> Hyperparameters:
    """Return what is in force once training has chosen it, else what was asked."""
    asked, spec, chosen = found.asked, found.spec, found.resolved
    epochs = max(1, round(float(spec.get("epochs") or 1)))
    if chosen is None:
        return Hyperparameters(
            n_epochs=asked.get("n_epochs") or ("auto" if asked else epochs),
            batch_size=asked.get("batch_size") or spec.get("effective_batch") or "auto",
            learning_rate_multiplier=asked.get("learning_rate_multiplier") or "auto",
        )
    return Hyperparameters(
        n_epochs=epochs,
        batch_size=int(chosen.get("effective_batch") or 1),
        learning_rate_multiplier=float(spec.get("learning_rate_multiplier") or 1),
    )


def _error(found: Found) -> JobErrorObject | None:
    if found.view.status is not Status.FAILED:
        return None
    failure = found.failure
    code = f"invalid_{found.bad_file}" if failure.code in DATA_CODES and found.bad_file else failure.code
    message = failure.message or "the job failed."
    return JobErrorObject(code=code, message=message, param=found.bad_file)


def _estimate(found: Found, now: float) -> int | None:
    left_s = found.view.eta_s
    return None if left_s is None or found.view.status is not Status.RUNNING else int(now + left_s)


def _own(found: Found) -> Own:
    job = found.view
    status = "paused" if job.paused else job.status.value
    values = {name: getattr(job, name) for name in Own.model_fields if hasattr(job, name)}
    values |= {"status": status, "stage": job.stage.value, "reason": job.reason.value}
    settings = {name: value for name, value in (found.resolved or {}).items() if name != "rules"}
    own = {"method": found.spec.get("method", "sft"), "continue_from": found.spec.get("continue_from")}
    return Own.model_validate({**values, **own, "settings": settings})
