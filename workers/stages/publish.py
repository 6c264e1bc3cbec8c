"""Runs the stage ``publish``: assembles the verified adapter as its users get it, without a GPU and without torch."""

import shutil
from typing import Any

from ...models.columns import evaluated_of
from ...models.jobs.progress import PublishedAdapter, StageValues
from ...models.jobs.stage_results import Prepared, base_of, trained_of
from ...models.tables.types import JsonObject
from ...settings.failpoints import hit
from ...tuning.adapters.package import assemble
from .claimed import ClaimedStage


def publish_adapter(stage: ClaimedStage, challenge: JsonObject | None) -> StageValues:
    """Assemble and upload the adapter with its model card.

    Args:
        stage: The claimed stage.
        challenge: The gate's decision about the champion that the job competes for; None where it competes for none.
    """
    job, workspace, base = stage.job, stage.workspace, base_of(stage.job)
    shutil.rmtree(workspace.local("published"), ignore_errors=True)
    assemble(
        workspace.fetch(trained_of(job).adapter_uri, "adapter"),
        workspace.fetch(str(job.prepared_uri), "prepared"),
        workspace.local("published"),
        base=base,
        spec=job.spec,
        resolved=job.resolved or {},
        metrics=job.metrics or {},
        servable=evaluated_of(job).servable,
        facts=_facts(stage) | _verdict(challenge),
    )
    hit("publish.assembled")
    uri = workspace.upload("published")
    hit("publish.uploaded")
    name = "-".join(part for part in (base.name.rsplit("/", 1)[-1], stage.spec.suffix, job.id[-8:]) if part)
    adapter: PublishedAdapter = {
        "name": name,
        "uri": uri,
        "base_name": base.name,
        "base_revision": base.revision,
        "rank": stage.spec.rank,
        "metrics": job.metrics,
        "size_bytes": workspace.artifacts.size_bytes(uri),
    }
    values: StageValues = {"adapter": adapter, "summary": _summary(stage, uri, name)}
    return values if challenge is None else {**values, "challenge": challenge}


def _verdict(challenge: JsonObject | None) -> dict[str, Any]:
    """Return the decision of a champion's gate, for the card."""
    if challenge is None:
        return {}
    passed = "passes" if challenge["promote"] else "does not pass"
    return {"champion": f"{passed} the gate of {challenge['name']}, {challenge['reason']}"}


def _facts(stage: ClaimedStage) -> dict[str, Any]:
    """Collect the facts of the job, for the card."""
    job, trained, evaluated = stage.job, trained_of(stage.job), evaluated_of(stage.job)
    prepared = Prepared.read(job.prepared)
    return {
        "job": job.id,
        "tenant": job.tenant,
        "dataset_sha256": job.dataset_sha256,
        "train_rows": prepared.train_rows if prepared else None,
        "eval_rows": prepared.eval_rows if prepared else None,
        "steps": trained.steps,
        "trainable_parameters": trained.trainable_parameters,
        "total_parameters": trained.total_parameters,
        "train_s": trained.train_s,
        "gpu_type": job.gpu_type,
        "gpu_seconds": job.gpu_seconds,
        "cost": job.cost,
        "samples": evaluated.samples,
        "checks": evaluated.checks,
        "warnings": job.warnings,
    }


def _summary(stage: ClaimedStage, uri: str, name: str) -> JsonObject:
    """Build the result that the caller's ``.get()`` returns."""
    job, trained = stage.job, trained_of(stage.job)
    return {
        "id": job.id,
        "status": "completed",
        "name": name,
        "adapter": uri,
        "metrics": job.metrics or {},
        "cost": job.cost,
        "gpu_seconds": job.gpu_seconds,
        "steps": trained.steps,
        "trainable_parameters": trained.trainable_parameters,
        "total_parameters": trained.total_parameters,
        "servable": evaluated_of(job).servable,
        "warnings": job.warnings,
    }
