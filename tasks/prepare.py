"""``celora.prepare``: read, check, format, split and tokenize; the prepared data and the receipt become the job's."""

from pathlib import PurePosixPath
from typing import Any, Literal

from ..models.gate import REQUIRED
from ..models.spec import JobSpec
from ..models.states import Stage
from ..settings.gpus import GpuType, gpu_catalogue
from ..settings.settings import Settings
from ..tuning.protocol import DeviceType, HubAccess, PrepareRequest
from ..tuning.sources import is_remote
from ..workers.carry import Held, carry
from ..workers.limits import prepare_limits, source_access
from ..workers.places import Places
from .base import task

SPLIT_SEED = 0
"""The same rows are held out whatever a job's seed is: runs are compared on equal rows, and their data is reused."""


@task("prepare")
def prepare(self: Any, job_id: str, attempt: int) -> dict[str, Any]:
    """Prepare a job's data."""
    return carry(self.request, Stage.PREPARE, job_id, attempt, _work)


def _work(held: Held) -> dict[str, Any]:
    request = request_of(held.spec, held.places, held.settings, job=held.job.id, attempt=held.job.attempt)
    result = held.run(request)
    held.places.keep_receipt(result["receipt"])
    return {
        "base": result["base"],
        "prepared": result,
        "prepared_uri": held.places.upload("prepared"),
        "dataset_sha256": result["dataset_sha256"],
        "memory_bytes": result["memory_bytes"],
        "warnings": result["warnings"],
    }


def request_of(
    spec: JobSpec,
    places: Places,
    settings: Settings,
    *,
    job: str,
    attempt: int,
    op: Literal["prepare", "check"] = "prepare",
) -> PrepareRequest:
    """What the trainer program is asked, for a job's ``prepare`` and for ``celora check`` alike."""
    named = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"eval": spec.eval_dataset or ""}
    return PrepareRequest(
        op=op,
        job=job,
        attempt=attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base_model=spec.base_model,
        revision=spec.revision,
        dataset=_placed(places, spec.dataset, "dataset"),
        eval_datasets={
            name: _placed(places, source, f"eval-{number}")
            for number, (name, source) in enumerate(named.items())
            if source
        }
        | _must_pass(spec, places),
        columns=spec.columns,
        sources=source_access(settings),
        eval_fraction=spec.eval_fraction,
        recipe=spec.recipe(),
        seed=SPLIT_SEED,
        out_dir=str(places.local("prepared")),
        limits=prepare_limits(settings),
        duplicates=spec.duplicates,
        near_duplicates=spec.near_duplicates,
        devices=[_device(gpu) for gpu in gpu_catalogue(settings.gpus).values()],
        eval_max_rows=spec.eval_max_rows,
        eval_max_new_tokens=spec.eval_max_new_tokens,
    )


def _must_pass(spec: JobSpec, places: Places) -> dict[str, str]:
    """The rows that a challenger must answer exactly, as one more held-out set."""
    source = spec.gate.must_pass if spec.gate else None
    return {REQUIRED: _placed(places, source, REQUIRED)} if source else {}


def _placed(places: Places, source: str, role: str) -> str:
    """A local file's path; what lies elsewhere is left for the trainer program, which fetches and judges it."""
    if is_remote(source) and not places.artifacts.holds(source):
        return source
    return str(places.fetch_file(source, f"{role}-{PurePosixPath(source).name}"))


def _device(gpu: GpuType) -> DeviceType:
    cpu = gpu.name == "cpu"
    return DeviceType(
        name=gpu.name,
        kind="cpu" if cpu else "cuda",
        memory_bytes=gpu.memory_bytes,
        flops_per_s=0 if cpu else gpu.peak_tflops * 1e12,
        bandwidth_bytes_per_s=gpu.bandwidth_gb_s * 1e9,
        price_per_hour=gpu.price_per_hour,
    )


def hub_access(settings: Settings) -> HubAccess:
    """How this installation's trainers may reach the hub."""
    return HubAccess(
        endpoint=settings.hub_endpoint,
        offline=settings.offline,
        allowed_bases=settings.allowed_bases,
        remote_code_bases=settings.remote_code_bases,
    )
