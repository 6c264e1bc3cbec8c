"""Finds jobs that no worker can ever run, when they are submitted or changed: they would wait without an end.

A base that no GPU type of the catalogue can hold is refused with both sizes. Labels that no worker carries are marked:
an operator may start such a worker, so the job is accepted, and its event says what is missing. The other cases stand
where their numbers are known: ``tenants.admission`` marks a budget below the estimate and refuses a priority above the
ceiling, ``workers.stages.prepare`` refuses a job that its data makes too large.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import BaseModelError, DataError
from ...models.database import get_database
from ...models.events import record_event
from ...models.scope.scope import Scope
from ...models.spec import JobSpec
from ...models.tables import Job, Worker
from ...settings.gpus import GIB, gpu_catalogue
from ...settings.settings import Settings
from ...storage.regular_files import open_regular

NOT_CARRIED = "labels_not_carried"
"""The kind of the event."""
WIDTHS = {"bfloat16": 2, "float16": 2}
"""Bytes of a stored weight by the dtype that ``config.json`` names; the widest, 4, where it names another or none."""
WEIGHTS = "model*.safetensors"
"""The files that transformers loads; a folder may hold the same weights in another form beside them."""
MOST_CONFIG_BYTES = 2**20
LEAST_BITS = {"nf4": 4, "none": 16}
"""Bits of a weight on the device at least, by quantization."""


def check_size(spec: JobSpec, settings: Settings) -> None:
    """Refuses a base in a local folder whose weights alone are larger than the memory of every GPU type it may get.

    The sizes of the files are read, not the files. The weights of a base on a hub are known once its data is prepared.

    Raises:
        BaseModelError: They are; the message has both numbers.
    """
    folder = Path(spec.base_model)
    if not folder.is_absolute():
        return
    need_bytes = _least_bytes(folder, spec.quantization)
    types = gpu_catalogue(settings.gpus)
    able = [types[spec.gpu]] if spec.gpu != "auto" else list(types.values())
    largest = max(able, key=lambda gpu: gpu.memory_bytes)
    if need_bytes > largest.memory_bytes:
        bits = LEAST_BITS[spec.quantization]
        kind = "the largest GPU type of the catalogue" if spec.gpu == "auto" else "the GPU type that was asked for"
        raise BaseModelError(
            f"base_model: the weights of {folder.name} alone need {need_bytes / GIB:.1f} GiB of device memory "
            f"in {bits} bits; {kind}, {largest.name}, has {largest.memory_bytes / GIB:.0f} GiB.",
            hint="Use a smaller base or quantization nf4." if bits > LEAST_BITS["nf4"] else "Use a smaller base.",
        )


def _least_bytes(folder: Path, quantization: str) -> int:
    """Return the device memory that the weights in a folder need at least; 0 where their files cannot be read."""
    try:
        stored_bytes = sum(path.stat().st_size for path in folder.glob(WEIGHTS) if path.is_file())
        config: object = _config(folder) if stored_bytes else None
    except (OSError, ValueError, RecursionError, DataError):
        return 0
    named = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    weights = stored_bytes // WIDTHS.get(str(named), 4)  # pyright: ignore[reportUnknownArgumentType]
    return weights * LEAST_BITS[quantization] // 8


def _config(folder: Path) -> object:
    with open_regular(folder / "config.json", what="the base's file") as file:
        return json.loads(file.read(MOST_CONFIG_BYTES))


def mark_labels(session: Session, job_id: str) -> None:
    """Record a warning if no worker that the installation knows, online or not, carries the labels of a job."""
    job = session.get_one(Job, job_id)
    if not job.labels:
        return
    wanted = job.labels.split(",")
    carried = _carried(job.tenant, job.gpu)
    if any(labels.issuperset(wanted) for labels in carried):
        return
    unknown = [name for name in wanted if not any(name in labels for labels in carried)]
    device = "GPU worker" if job.gpu == "auto" else f"{job.gpu} worker"
    message = f"{_missing(device, wanted, unknown)}; the job waits until one does"
    record_event(session, job_id, job.attempt, "warning", NOT_CARRIED, message, {"labels": wanted, "unknown": unknown})


def _missing(device: str, wanted: Sequence[str], unknown: Sequence[str]) -> str:
    if unknown:
        return f"no {device} carries the {'label' if len(unknown) == 1 else 'labels'} {', '.join(unknown)}"
    return f"no {device} carries the labels {', '.join(wanted)} together"


def _carried(tenant: str, gpu: str) -> list[frozenset[str]]:
    """Return the labels of each GPU worker that the job may use; workers are no tenant's, so the session is its own."""
    columns = select(Worker.labels, Worker.reserved_for, Worker.gpu_type)
    labelled = columns.where(Worker.kind == "gpu", Worker.labels != "")
    with get_database().session(Scope.everything) as session:
        return [
            frozenset(labels.split(","))
            for labels, reserved_for, gpu_type in session.execute(labelled)
            if reserved_for in (None, "", tenant) and gpu in ("auto", gpu_type)
        ]
