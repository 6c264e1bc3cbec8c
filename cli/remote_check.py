"""Checks data on a server: sends the files, waits for the result, and deletes what was only for the check."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..api.client.checks import Status, delete_check, delete_file, start_check, wait_for_check
from ..api.client.uploads import form_of
from ..errors import CeloraError
from .options import Fields
from .output import progress_console
from .remote_files import SentFile, send_files, with_ids

if TYPE_CHECKING:
    from ..api.client.connection import Connection

SAID: dict[Status, str] = {"waiting": "waiting for a worker of the server", "running": "checking"}


def check_at(connection: "Connection", fields: Fields, *, keep: bool) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Check data on a server; return the receipt, and the fault of the data if it has one.

    A file that was sent for the check alone is deleted, also where the check fails or is interrupted; a process that is
    killed leaves it to the hour after which it expires.

    Args:
        connection: The connection to the server.
        fields: The fields of the job.
        keep: Leave the files on the server.

    Raises:
        DataError: A dataset is neither a file here nor one on the server.
        CeloraError: The server refuses the check, could not make it, or does not answer.
    """
    form_of(fields)  # what no server takes is refused before a file is sent
    sent, check_id = dict[str, SentFile](), None
    try:
        send_files(connection, fields, passing=not keep, sent=sent)
        check_id = start_check(connection, with_ids(fields, sent))
        return wait_for_check(connection, check_id, on_status=_show)
    finally:
        if check_id is not None:
            with suppress(CeloraError):  # it expires
                delete_check(connection, check_id)
        for file in sent.values():
            if file.passing:
                with suppress(CeloraError):  # the same
                    delete_file(connection, file.id)


def _show(status: Status) -> None:
    if status in SAID:
        progress_console().print(SAID[status], style="dim", markup=False)
