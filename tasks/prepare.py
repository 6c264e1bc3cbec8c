"""``celora.prepare``: read, check, format, split and tokenize; the prepared data and the receipt become the job's."""

from typing import Any

from ..models.states import Stage
from ..tuning.protocol import HubAccess, PrepareRequest
from ..workers.carry import Held, carry
from .base import task


@task("prepare")
def prepare(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Prepare a job's data."""
    return carry(self.request, Stage.PREPARE, job_id, attempt, _work)


def _work(held: Held) -> dict[str, Any]:
    result = held.run(_request(held))
    return {
        "base": result["base"],
        "prepared": result,
        "prepared_uri": held.places.upload("prepared"),
        "dataset_sha256": result["dataset_sha256"],
        "memory_bytes": result["memory_bytes"],
        "warnings": result["warnings"],
    }


def _request(held: Held) -> PrepareRequest:
    spec, places = held.spec, held.places
    named = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"eval": spec.eval_dataset or ""}
    return PrepareRequest(
        job=held.job.id,
        attempt=held.job.attempt,
        cache_dir=str(held.settings.cache),
        hub=hub_access(held),
        threads=held.settings.trainer_threads,
        base_model=spec.base_model,
        revision=spec.revision,
        dataset=str(places.fetch_file(spec.dataset, "dataset.jsonl")),
        eval_datasets={
            name: str(places.fetch_file(source, f"eval-{number}.jsonl"))
            for number, (name, source) in enumerate(named.items())
            if source
        },
        eval_fraction=spec.eval_fraction,
        recipe=spec.recipe(),
        seed=spec.seed or 0,
        out_dir=str(places.local("prepared")),
    )


def hub_access(held: Held) -> HubAccess:
    """How this installation's trainers may reach the hub."""
    settings = held.settings
    return HubAccess(
        endpoint=settings.hub_endpoint,
        offline=settings.offline,
        allowed_bases=settings.allowed_bases,
        remote_code_bases=settings.remote_code_bases,
    )
