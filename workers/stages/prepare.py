"""Runs the stage ``prepare``: a trainer process reads, checks, formats, splits and tokenizes the dataset."""

from collections.abc import Mapping

from ...errors import SettingsError
from ...models import datasets
from ...models.jobs.progress import Columns
from ...models.queue.estimates import DeviceEstimate
from ...models.scope.scope import Scope
from ...settings.gpus import GIB, GpuType, gpu_catalogue
from ...tuning.protocol import PrepareResult
from ..trainer.requests import request_of
from .claimed import ClaimedStage, note
from .history import corrected
from .parents import require_base
from .runner import run_trainer


def prepare_data(stage: ClaimedStage) -> Columns:
    """Prepare the job's data and store its receipt; return the columns that make both the job's."""
    job_id = stage.claim.job_id
    with stage.database.session(Scope.of(stage.job.tenant)) as session:
        names = datasets.file_names(session, job_id)
    request = request_of(
        stage.spec, stage.workspace, stage.settings, job=job_id, attempt=stage.claim.attempt, file_names=names
    )
    result = run_trainer(stage, request, PrepareResult)
    require_base(stage, result.base)
    result = corrected(stage, result)
    stage.workspace.keep_receipt(result.receipt)
    types = gpu_catalogue(stage.settings.gpus)
    if stage.spec.gpu == "auto":
        require_device(result, types)
    elif (short := beyond_type(result, stage.spec.gpu, types)) is not None:
        note(stage, "warning", "memory_above_device", short)
    return {
        "base": result.base.model_dump(mode="json"),
        "prepared": result.model_dump(mode="json"),
        "prepared_uri": stage.workspace.upload("prepared"),
        "dataset_sha256": result.dataset_sha256,
        "memory_bytes": result.memory_bytes,
        "expected_s": expected_s(result),
        "warnings": result.warnings,
    }


def expected_s(result: PrepareResult) -> dict[str, float]:
    """Return the seconds for which the job will hold a device, by GPU type: its training and its evaluation."""
    devices = [DeviceEstimate.model_validate(each) for each in result.receipt.get("estimate", {}).get("devices", [])]
    return {each.name: round(each.expected_s, 3) for each in devices}


def require_device(result: PrepareResult, types: Mapping[str, GpuType]) -> None:
    """Refuse a job with ``gpu: auto`` that needs more memory than any type has: it would wait without an end.

    Raises:
        SettingsError: It does; the message has both numbers, the hint the mildest changes with which it fits.
    """
    largest = max(types.values(), key=lambda gpu: gpu.memory_bytes)
    if result.memory_bytes <= largest.memory_bytes:
        return
    raise SettingsError(
        f"training needs about {result.memory_bytes / GIB:.1f} GiB of device memory; the largest GPU type of the "
        f"catalogue, {largest.name}, has {largest.memory_bytes / GIB:.0f} GiB.",
        hint=_remedy(result, largest.name),
        facts={"need_bytes": result.memory_bytes, "gpu_type": largest.name, "largest_bytes": largest.memory_bytes},
    )


def beyond_type(result: PrepareResult, gpu: str, types: Mapping[str, GpuType]) -> str | None:
    """Word that the GPU type which a job names is too small by the estimate; the job runs there all the same."""
    known = types.get(gpu)
    if known is None or result.memory_bytes <= known.memory_bytes:
        return None
    return (
        f"training needs about {result.memory_bytes / GIB:.1f} GiB of device memory; {gpu}, which the job asks for, "
        f"has {known.memory_bytes / GIB:.0f} GiB. {_remedy(result, gpu)}"
    )


def _remedy(result: PrepareResult, gpu: str) -> str:
    """Name the changes with which the job fits a type, as the receipt has them."""
    devices = result.receipt.get("estimate", {}).get("devices", [])
    changes = next((each.get("would_fit_with") for each in devices if each["name"] == gpu), None)
    if not changes:
        return "Use a smaller base or shorter rows."
    fields = {name: value for name, value in changes.items() if name != "rows_cut"}
    return f"It would fit with {', '.join(f'{name} {value}' for name, value in fields.items())}."
