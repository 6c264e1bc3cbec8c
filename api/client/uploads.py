"""Sends files and jobs to a server: a file while it is read, a job in OpenAI's form with celora's further fields."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import DataError, NotFoundError, SettingsError
from ...models.spec import JobSpec
from ...storage.manifest import file_sha256
from .connection import Answer, Connection

PURPOSE = "fine-tune"
OWN_PLACE = {"base_model": "model", "dataset": "training_file", "eval_dataset": "validation_file"}
"""Fields of a job that the request has under a name of its own."""
KEYS = ("tenant", "user")
"""Fields that the key decides."""
NOT_OFFERED = ("revision", "continue_from")
"""Fields that a server takes from nobody: the request's model names them."""
DEFAULTS = ("epochs", "eval_fraction", "epoch_checkpoints")
"""Fields whose defaults OpenAI's form has otherwise; a command's job has its own."""

PASSING_S = 3600
"""Seconds after which a file expires that was sent for a short time."""

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class SentFile:
    """A file on a server.

    Attributes:
        id: Its id there.
        passing: True if it was sent for a short time, and its sender deletes it.
    """

    id: str
    passing: bool = False


def upload(
    connection: Connection, path: Path, on_bytes: OnBytes = lambda _: None, *, passing: bool = False
) -> SentFile:
    """Send a file, unless the server has it by its content and name; the server verifies the content by its SHA-256.

    A repeated command thus names the same file, and with a name of its own is the same job.

    Args:
        connection: The connection to the server.
        path: The file; its name goes with it.
        on_bytes: Called with the number of bytes that were read since the last call.
        passing: Let the file expire after an hour.

    Raises:
        DataError: The file is empty.
        CeloraError: The server refuses the file, got another content, or does not answer.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty.")
    sha256 = file_sha256(path)
    try:
        return SentFile(str(connection.get(f"celora/contents/{sha256}", filename=path.name)["id"]))
    except NotFoundError:
        pass
    fields = {"purpose": PURPOSE, "sha256": sha256}
    if passing:
        fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(PASSING_S)}
    with path.open("rb") as file:
        files = {"file": (path.name, _Counted(file, on_bytes), "application/octet-stream")}
        return SentFile(str(connection.upload("files", files=files, fields=fields)["id"]), passing)


def create_job(connection: Connection, fields: Mapping[str, Any], *, job_id: str | None) -> str:
    """Create a job and return its id, which the server chooses.

    Args:
        connection: The connection to the server.
        fields: The fields of the job; its datasets are ids of the server's files.
        job_id: A name by which a repeated call is the same job.

    Raises:
        SettingsError: A field cannot be sent to a server.
        CeloraError: The server refuses the job, or does not answer.
    """
    headers = {} if job_id is None else {"Idempotency-Key": job_id}
    return str(connection.post("fine_tuning/jobs", form_of(fields), headers=headers)["id"])


def form_of(fields: Mapping[str, Any]) -> Answer:
    """Make the request of a job's fields.

    Raises:
        SettingsError: A field cannot be sent to a server.
    """
    for name in (*KEYS, *NOT_OFFERED):
        if fields.get(name) is not None:
            raise SettingsError(f"{name} cannot be sent to a server: {_instead(name)}.", hint="Leave it out.")
    if isinstance(fields.get("eval_dataset"), Mapping):
        raise SettingsError("eval_dataset: a server takes one held-out file.", hint="Give one without a name.")
    form = {place: fields[name] for name, place in OWN_PLACE.items() if fields.get(name) is not None}
    further = {name: value for name, value in fields.items() if name not in OWN_PLACE and value is not None}
    defaults = {name: JobSpec.model_fields[name].get_default() for name in DEFAULTS}
    return {**form, "celora": {**defaults, **further}}


def _instead(name: str) -> str:
    if name in KEYS:
        return "its key decides that"
    return "base_model may be the id of a trained model, ft:…" if name == "continue_from" else "it has one of each base"


class _Counted(io.RawIOBase):
    """A file that reports how much of it was read.

    Args:
        file: The file.
        on_bytes: Called with the number of bytes of each read.
    """

    def __init__(self, file: BinaryIO, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(size)
        self._on_bytes(len(part))
        return part

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()
