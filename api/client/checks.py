"""Has a server check data, and waits for the result, which has the form of ``celora check --json``."""

from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from ...errors import of_code
from .connection import Answer, Connection
from .uploads import form_of
from .views import unreadable

PLACE = "celora/checks"
POLLS_S = (0.2, 0.3, 0.5, 1.0, 2.0)
"""Seconds between the first questions for the result; the last one repeats."""

Status = Literal["waiting", "running", "ended"]


class Fault(BaseModel):
    """A fault: its stable word, the fault itself, and the next step."""

    code: str
    message: str
    hint: str


class CheckAnswer(BaseModel):
    """A check of a server: ``error`` is the fault of the data, ``failure`` the fault for which there is no result."""

    id: str
    status: Status
    receipt: dict[str, Any] | None
    error: Fault | None
    failure: Fault | None


def start_check(connection: Connection, fields: Mapping[str, Any]) -> str:
    """Start a check and return its id; the request is that of the job.

    Args:
        connection: The connection to the server.
        fields: The fields of the job; its datasets are ids of the server's files.

    Raises:
        SettingsError: A field cannot be sent to a server.
        CeloraError: The server refuses the check, or does not answer.
    """
    return _read(connection.post(PLACE, form_of(fields))).id


def wait_for_check(
    connection: Connection, check_id: str, *, on_status: Callable[[Status], None] = lambda _: None
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Wait for the end of a check; return the receipt, and the fault of the data if it has one.

    A server ends each check: one that no worker takes or finishes fails.

    Args:
        connection: The connection to the server.
        check_id: The check.
        on_status: Called with each new status.

    Raises:
        CeloraError: The check could not be made, has expired, or the server does not answer.
    """
    shown, turn = None, 0
    while (found := _read(connection.get(f"{PLACE}/{quote(check_id, safe='')}"))).status != "ended":
        if found.status != shown:
            shown = found.status
            on_status(shown)
        connection.pause(POLLS_S[min(turn, len(POLLS_S) - 1)])
        turn += 1
    if found.failure is not None:
        raise of_code(found.failure.code)(found.failure.message, hint=found.failure.hint)
    return found.receipt or {"ok": False}, found.error.model_dump() if found.error else None


def delete_check(connection: Connection, check_id: str) -> None:
    """Delete a check with its result.

    Raises:
        CeloraError: The server has no such check any more, or does not answer.
    """
    connection.delete(f"{PLACE}/{quote(check_id, safe='')}")


def delete_file(connection: Connection, file_id: str) -> None:
    """Delete a file.

    Raises:
        CeloraError: The server has no such file any more, or does not answer.
    """
    connection.delete(f"files/{quote(file_id, safe='')}")


def _read(answer: Answer) -> CheckAnswer:
    try:
        return CheckAnswer.model_validate(answer)
    except ValidationError as error:
        raise unreadable(error.errors(include_url=False)[0]) from None
