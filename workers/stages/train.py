"""Runs the stage ``train``: a supervised trainer process resumes from the newest checkpoint that verifies."""

import logging
import shutil
from pathlib import Path

from ...errors import StorageError
from ...models import queries
from ...models.jobs import failures
from ...models.jobs.progress import Columns
from ...models.jobs.stage_results import Prepared, base_of
from ...models.scope.scope import Scope
from ...storage.manifest import verify_manifest
from ...tuning.protocol import TrainRequest, TrainResult
from ...tuning.recipe import Adjusted, ResolvedRecipe
from ..trainer.requests import hub_access
from . import parents
from .claimed import ClaimedStage, note, threads_of
from .runner import run_trainer

logger = logging.getLogger(__name__)


def train_adapter(stage: ClaimedStage) -> Columns:
    """Train the job's adapter and upload it; its checkpoints were uploaded while it trained."""
    result = run_trainer(stage, train_request(stage), TrainResult)
    shutil.rmtree(stage.workspace.local("checkpoints"), ignore_errors=True)
    if stage.workspace.local("trackers").exists():
        stage.workspace.upload("trackers")
    return {
        "result": {**result.model_dump(mode="json"), "adapter_uri": stage.workspace.upload("adapter")},
        "resolved": result.resolved.model_dump(mode="json"),
        "step": result.steps,
        "steps": result.planned_steps,
        "warnings": result.warnings,
    }


def train_request(stage: ClaimedStage) -> TrainRequest:
    """Build the request of the trainer process, with the checkpoint from which it resumes."""
    job, settings, workspace = stage.job, stage.settings, stage.workspace
    checkpoint, adapters = _resume_point(stage), parents.folders(stage)
    return TrainRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=threads_of(stage),
        base=base_of(job),
        prepared_dir=str(workspace.fetch(str(job.prepared_uri), "prepared")),
        recipe=stage.spec.recipe(),
        resolved=ResolvedRecipe.model_validate(job.resolved) if checkpoint and job.resolved else None,
        adjusted=_limits(stage),
        seed=stage.spec.seed or 0,
        out_dir=str(workspace.scratch),
        resume_from=str(checkpoint) if checkpoint else None,
        start_from=adapters.get("start_from"),
        reference=adapters.get("reference"),
        device="cuda" if stage.device == "cuda" else "cpu",
        device_memory_bytes=0,
        keep_checkpoints=settings.keep_checkpoints,
        acknowledged=True,
        grace_s=settings.grace_s,
    )


def _limits(stage: ClaimedStage) -> Adjusted | None:
    """Return the limits from an out-of-memory error: the job's own, else those of an earlier job.

    The earlier job had the same base and GPU type. Its limits are ignored where the job sets its micro batch itself.
    """
    job, prepared = stage.job, Prepared.read(stage.job.prepared)
    if job.adjusted:
        return Adjusted.model_validate(job.adjusted)
    if stage.spec.micro_batch != "auto" or prepared is None or job.gpu_type is None:
        return None
    with stage.database.session(Scope.everything) as session:
        return failures.safe_batch(session, job.base, job.gpu_type, prepared.max_length)


def _resume_point(stage: ClaimedStage) -> Path | None:
    """Fetch the newest checkpoint of an earlier attempt whose files match its manifest; None to start afresh."""
    with stage.database.session(Scope.everything) as session:
        candidates = [(row.attempt, row.step, row.uri) for row in queries.resume_candidates(session, stage.job.id)]
    for attempt, step, uri in candidates:
        try:
            folder = stage.workspace.fetch(uri, "checkpoints", f"{attempt}-{step}")
            verify_manifest(folder)
        except StorageError as error:
            logger.warning("job %s: checkpoint %s is skipped: %s", stage.job.id, uri, error)
            note(stage, "warning", "checkpoint_rejected", f"the checkpoint of step {step} is skipped: {error}")
            continue
        note(stage, "info", "resumed", f"training goes on from step {step} of attempt {attempt}")
        return folder
    if candidates:
        note(stage, "warning", "started_again", "no checkpoint could be used; training starts again at step 0")
    return None
