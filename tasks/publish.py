"""``celora.publish``: put the checked adapter together as its users get it, and register it; no GPU, no torch."""

import logging
import shutil
from typing import Any

from ..models.states import Stage
from ..settings.errors import CeloraError
from ..settings.failpoints import hit
from ..tuning.adapter import assemble
from ..tuning.protocol import Base
from ..workers.carry import Held, carry
from . import contest
from .base import task

logger = logging.getLogger(__name__)


@task("publish")
def publish(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Publish a job's adapter."""
    told = carry(self.request, Stage.PUBLISH, job_id, attempt, _work)
    try:
        contest.conclude(job_id)
    except CeloraError as error:
        logger.warning("job %s is completed; what follows for its champion waits (%s)", job_id, error)
    return told


def _work(held: Held) -> dict[str, Any]:
    job, places = held.job, held.places
    with held.database.session() as session:
        challenge = contest.challenge(session, job, places.artifacts)
    base = Base.model_validate(job.base)
    trained, evaluation = job.result or {}, job.evaluation or {}
    shutil.rmtree(places.local("published"), ignore_errors=True)
    assemble(
        places.fetch(str(trained["adapter_uri"]), "adapter"),
        places.fetch(str(job.prepared_uri), "prepared"),
        places.local("published"),
        base=base,
        spec=job.spec,
        resolved=job.resolved or {},
        metrics=job.metrics or {},
        servable=evaluation.get("servable", {}),
        facts=_facts(held) | _verdict(challenge),
    )
    hit("publish.assembled")
    uri = places.upload("published")
    hit("publish.uploaded")
    name = "-".join(part for part in (base.name.rsplit("/", 1)[-1], held.spec.suffix, job.id[-8:]) if part)
    adapter = {
        "name": name,
        "uri": uri,
        "base_name": base.name,
        "base_revision": base.revision,
        "rank": held.spec.rank,
        "metrics": job.metrics,
        "size_bytes": places.artifacts.size_bytes(uri),
    }
    values = {"adapter": adapter, "summary": _summary(held, uri, name)}
    return values if challenge is None else {**values, "challenge": challenge}


def _verdict(challenge: dict[str, Any] | None) -> dict[str, Any]:
    """For the card: how the gate of a champion judged the adapter."""
    if challenge is None:
        return {}
    passed = "passes" if challenge["promote"] else "does not pass"
    return {"champion": f"{passed} the gate of {challenge['name']}, {challenge['reason']}"}


def _facts(held: Held) -> dict[str, Any]:
    job, trained, prepared = held.job, held.job.result or {}, held.job.prepared or {}
    return {
        "job": job.id,
        "tenant": job.tenant,
        "dataset_sha256": job.dataset_sha256,
        "train_rows": prepared.get("train_rows"),
        "eval_rows": prepared.get("eval_rows"),
        "steps": trained.get("steps"),
        "trainable_parameters": trained.get("trainable_parameters"),
        "total_parameters": trained.get("total_parameters"),
        "train_s": trained.get("train_s"),
        "gpu_type": job.gpu_type,
        "gpu_seconds": job.gpu_seconds,
        "cost": job.cost,
        "samples": (job.evaluation or {}).get("samples", []),
        "checks": (job.evaluation or {}).get("checks", []),
        "warnings": job.warnings,
    }


def _summary(held: Held, uri: str, name: str) -> dict[str, Any]:
    """What ``.get()`` gives to the caller."""
    job, trained = held.job, held.job.result or {}
    return {
        "id": job.id,
        "status": "completed",
        "name": name,
        "adapter": uri,
        "metrics": job.metrics or {},
        "cost": job.cost,
        "gpu_seconds": job.gpu_seconds,
        "steps": trained.get("steps"),
        "trainable_parameters": trained.get("trainable_parameters"),
        "total_parameters": trained.get("total_parameters"),
        "servable": (job.evaluation or {}).get("servable", {}),
        "warnings": job.warnings,
    }
