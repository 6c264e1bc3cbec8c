"""Submits a job to a server: checks and sends its files, then the job that names them."""

from typing import TYPE_CHECKING

from ..api.client.uploads import create_job, form_of
from .options import Fields
from .remote_files import send_files, with_ids
from .rows_here import check_rows

if TYPE_CHECKING:
    from ..api.client.connection import Connection


def submit_to(connection: "Connection", fields: Fields, job_id: str | None) -> str:
    """Send a job with its files and return the id that the server gives it.

    Args:
        connection: The connection to the server.
        fields: The fields of the job.
        job_id: A name by which a repeated call is the same job.

    Raises:
        DataError: A dataset is neither a file here nor one on the server, or has bad lines.
        CeloraError: The server refuses a file or the job, or does not answer.
    """
    form_of(fields)  # what no server takes is refused before a file is sent
    sent = send_files(connection, fields, lambda path, training: check_rows(path, fields if training else None))
    return create_job(connection, with_ids(fields, sent), job_id=job_id)
