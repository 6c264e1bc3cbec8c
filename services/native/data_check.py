"""Checks data as a job's ``prepare`` would read it, in the same trainer program with the same limits; keeps nothing.

``celora check`` calls this on the machine of a person, and a prep worker calls it for a check over HTTP.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, of_code
from ...models.spec import JobSpec
from ...settings.settings import Settings
from ...tuning.protocol import PrepareRequest
from ...workers.requirements import require_training
from ...workers.stages.workspace import Workspace
from ...workers.trainer.requests import request_of
from ...workers.trainer.supervisor import Handler, TrainerError, run_once

DATA_CODES = ("bad_data", "data_limit")
"""Codes of the errors of the data, which are a result of a check."""

Receipt = dict[str, Any]


@dataclass(frozen=True)
class DataCheck:
    """The result of a check.

    Attributes:
        receipt: The receipt; of data that could not be read at all, only ``ok``.
        error: Code, message and hint of the fault of the data; None for data that can be trained on.
    """

    receipt: Receipt
    error: dict[str, str] | None


def check_data(
    spec: JobSpec,
    settings: Settings,
    *,
    file_names: Mapping[str, str],
    environment: Mapping[str, str],
    own_files: bool,
    on_event: Handler = lambda _event: None,
    log: Path | None = None,
    wanted: Callable[[], bool] = lambda: True,
    most_wall_s: int | None = None,
) -> DataCheck:
    """Check the data of a spec, and estimate what training on it needs.

    Args:
        spec: A spec that this installation accepts.
        settings: Settings of the installation.
        file_names: The names of files by set, where their paths have others.
        environment: The secrets that the check may have.
        own_files: Read files with the rights of this process in any folder, and not only in the allowed ones.
        on_event: Called with each event of the trainer.
        log: The log to which the trainer's output is appended; unless given, it is removed with the check.
        wanted: Returns False when nobody wants the result any more.
        most_wall_s: Seconds that the check may take, where the limit of ``prepare`` is not lower.

    Raises:
        CeloraError: The check could not be made, for a fault that is not one of the data.
        Cancelled: The result is not wanted any more.
    """
    job = f"check-{uuid.uuid4().hex[:12]}"
    places, receipt = Workspace(settings, job, 1), Receipt(ok=False)

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "receipt":
            receipt.clear()
            receipt.update(event["receipt"])
        on_event(event)

    try:
        request = request_of(
            spec, places, settings, job=job, attempt=1, op="check", file_names=file_names, own_files=own_files
        )
        if most_wall_s is not None:
            request = _bounded(request, most_wall_s)
        require_training()
        result = run_once(
            request, note, log=log or places.local("check.log"), environment=dict(environment), wanted=wanted
        )
    except TrainerError as error:
        if error.error["code"] not in DATA_CODES:
            raise of_code(error.error["code"])(error.message, hint=error.hint) from None
        return DataCheck(receipt, {name: error.error[name] for name in ("code", "message", "hint")})
    except DataError as error:
        return DataCheck(receipt, {"code": error.code, "message": error.message, "hint": error.hint})
    finally:
        places.clear()
        if places.scratch.parent.is_dir():
            places.scratch.parent.rmdir()
    return DataCheck(result["receipt"], None)


def _bounded(request: PrepareRequest, most_wall_s: int) -> PrepareRequest:
    """Return the request with a limit of the wall time that is no higher; 0 is no limit."""
    wall_s = min(request.limits.wall_s or most_wall_s, most_wall_s)
    return request.model_copy(update={"limits": request.limits.model_copy(update={"wall_s": wall_s})})
