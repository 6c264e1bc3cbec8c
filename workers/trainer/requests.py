"""Builds the requests to the trainer program from a job's spec and the settings of the installation."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from ...models.promotion_gate import REQUIRED
from ...models.spec import JobSpec
from ...settings.gpus import GpuType, gpu_catalogue
from ...settings.settings import Settings
from ...tuning.files.sources import is_remote
from ...tuning.protocol import DeviceType, HubAccess, PrepareRequest
from .limits import prepare_limits, source_access

SPLIT_SEED = 0
"""Seed of every job's split: runs are compared on equal held-out rows, and their prepared data is reused."""

OWN_FILES = {"local_roots": None}
"""Change of the source access for ``celora check`` here, which reads files with the rights of whoever runs it."""


class Workspace(Protocol):
    """The folders of one attempt that a request names; ``stages/workspace.py`` implements them."""

    def holds(self, uri: str) -> bool:
        """Check if a URI lies below the artifact root."""
        ...

    def local(self, *names: str) -> Path:
        """Name a folder in the scratch."""
        ...

    def fetch_file(self, source: str, name: str) -> Path:
        """Make a local copy of a file."""
        ...


def request_of(
    spec: JobSpec,
    places: Workspace,
    settings: Settings,
    *,
    job: str,
    attempt: int,
    op: Literal["prepare", "check"] = "prepare",
    file_names: Mapping[str, str] | None = None,
    own_files: bool = False,
) -> PrepareRequest:
    """Build the request for a job's ``prepare`` or for a check of its data.

    Args:
        spec: The spec.
        places: The folders of the attempt.
        settings: Settings of the installation.
        job: The job, or the name of the check.
        attempt: The attempt.
        op: The operation of the trainer.
        file_names: The names of files by set, where their paths have others.
        own_files: Read local files with the caller's rights, in any folder.
    """
    named = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"eval": spec.eval_dataset or ""}
    return PrepareRequest(
        op=op,
        job=job,
        attempt=attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings, own_files=own_files),
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
        file_names=dict(file_names or {}),
        columns=spec.columns,
        sources=source_access(settings).model_copy(update=OWN_FILES if own_files else {}),
        eval_fraction=spec.eval_fraction,
        recipe=spec.recipe(),
        seed=SPLIT_SEED,
        out_dir=str(places.local("prepared")),
        limits=prepare_limits(settings),
        duplicates=spec.duplicates,
        unknown_keys=spec.unknown_keys,
        too_long=spec.too_long,
        near_duplicates=spec.near_duplicates,
        devices=[_device(gpu) for gpu in gpu_catalogue(settings.gpus).values()],
        eval_max_rows=spec.eval_max_rows,
        eval_max_new_tokens=spec.eval_max_new_tokens,
        owner=owner_of(spec.tenant, settings),
    )


def owner_of(tenant: str, settings: Settings) -> str:
    """Return the tenant whose prepared data and answers of the base a run reuses; empty where all share theirs."""
    return "" if settings.share_prepared else tenant


def _must_pass(spec: JobSpec, places: Workspace) -> dict[str, str]:
    """Name the rows that a challenger must answer exactly as one more held-out set."""
    source = spec.gate.must_pass if spec.gate else None
    return {REQUIRED: _placed(places, source, REQUIRED)} if source else {}


def _placed(places: Workspace, source: str, role: str) -> str:
    """Return a local file's path; a remote source stays as it is, and the trainer program fetches and checks it."""
    if is_remote(source) and not places.holds(source):
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


def hub_access(settings: Settings, *, own_files: bool = False) -> HubAccess:
    """Build the access of this installation's trainers to base models.

    Args:
        settings: The installation's.
        own_files: Whether local files are read with the caller's rights, in any folder.
    """
    return HubAccess(
        endpoint=settings.hub_endpoint,
        offline=settings.offline,
        allowed_bases=settings.allowed_bases,
        remote_code_bases=settings.remote_code_bases,
        local_roots=None if own_files else [str(root) for root in settings.allowed_roots],
    )
