"""``celora.train``: the supervised trainer process; resumes from the newest checkpoint that verifies."""

import logging
import shutil
from pathlib import Path
from typing import Any

from ..models import failures, history
from ..models.states import Stage
from ..settings.errors import StorageError
from ..storage.manifest import verify_manifest
from ..tuning.protocol import Base, TrainRequest
from ..tuning.recipe import Adjusted, ResolvedRecipe
from ..workers.carry import Held, carry
from .base import task
from .prepare import hub_access

logger = logging.getLogger(__name__)


@task("train")
def train(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Train a job's adapter."""
    return carry(self.request, Stage.TRAIN, job_id, attempt, _work)


def _work(held: Held) -> dict[str, Any]:
    result = held.run(_request(held))
    shutil.rmtree(held.places.local("checkpoints"), ignore_errors=True)
    if held.places.local("trackers").exists():
        held.places.upload("trackers")
    return {
        "result": {**result, "adapter_uri": held.places.upload("adapter")},
        "resolved": result["resolved"],
        "step": result["steps"],
        "steps": result["planned_steps"],
        "warnings": result["warnings"],
    }


def _request(held: Held) -> TrainRequest:
    job, settings = held.job, held.settings
    checkpoint = _resume_point(held)
    return TrainRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(held.settings),
        threads=settings.trainer_threads,
        base=Base.model_validate(job.base),
        prepared_dir=str(held.places.fetch(str(job.prepared_uri), "prepared")),
        recipe=held.spec.recipe(),
        resolved=ResolvedRecipe.model_validate(job.resolved) if checkpoint and job.resolved else None,
        adjusted=_limits(held),
        seed=held.spec.seed or 0,
        out_dir=str(held.places.scratch),
        resume_from=str(checkpoint) if checkpoint else None,
        device="cuda" if held.device == "cuda" else "cpu",
        device_memory_bytes=0,
        keep_checkpoints=settings.keep_checkpoints,
        acknowledged=True,
        grace_s=settings.grace_s,
    )


def _limits(held: Held) -> Adjusted | None:
    """What this job's own out-of-memory errors forced on it, or what an earlier job's taught about base and GPU type.

    Of the latter nothing counts where the job names its micro batch itself.
    """
    job = held.job
    if job.adjusted:
        return Adjusted.model_validate(job.adjusted)
    length = (job.prepared or {}).get("max_length")
    if held.spec.micro_batch != "auto" or length is None or job.gpu_type is None:
        return None
    with held.database.session() as session:
        known = failures.safe_batch(session, job.base, job.gpu_type, int(length))
    return Adjusted.model_validate(known) if known else None


def _resume_point(held: Held) -> Path | None:
    """The newest checkpoint of an earlier attempt whose files are what its manifest says; None to start afresh."""
    with held.database.session() as session:
        candidates = [(row.attempt, row.step, row.uri) for row in history.resume_candidates(session, held.job.id)]
    for attempt, step, uri in candidates:
        try:
            folder = held.places.fetch(uri, "checkpoints", f"{attempt}-{step}")
            verify_manifest(folder)
        except StorageError as error:
            logger.warning("job %s: checkpoint %s is skipped: %s", held.job.id, uri, error)
            held.note("warning", "checkpoint_rejected", f"the checkpoint of step {step} is skipped: {error}")
            continue
        held.note("info", "resumed", f"training goes on from step {step} of attempt {attempt}")
        return folder
    if candidates:
        held.note("warning", "started_again", "no checkpoint could be used; training starts again at step 0")
    return None
