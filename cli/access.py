"""Chooses where a command finds its jobs: in the record of this machine, or on a server.

Both give the same records to the same printing functions, so that output and exit codes are equal.
"""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ..models.states import Status
from ..models.views import JobDetail, JobView
from ..storage.json_values import JsonObject

if TYPE_CHECKING:
    from ..api.client.connection import Connection
    from ..services.queue.explanations import Entry, Explanation

SERVER = "CELORA_SERVER"
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar=SERVER,
        show_default=False,
        help="Ask the API of a server, with the key CELORA_API_KEY, in place of this machine's record.",
    ),
]


class JobAccess(Protocol):
    """The jobs that a command reads and changes."""

    def whole_id(self, beginning: str) -> str:
        """Complete the beginning of an id."""
        ...

    def detail(self, job_id: str) -> JobDetail:
        """Read everything about a job; the beginning of its id will do."""
        ...

    def list_jobs(self, *, tenant: str | None, status: Status | None, limit: int) -> list[JobView]:
        """List jobs, the newest first."""
        ...

    def events(self, job_id: str, after_id: int) -> list[JsonObject]:
        """List the events of a job after an event, in order."""
        ...

    def log_news(self, job: JobDetail, shown: dict[str, int]) -> Iterator[tuple[str, str]]:
        """Yield each log's name and its text beyond what was shown, which ``shown`` remembers in bytes."""
        ...

    def cancel(self, job_id: str) -> str:
        """Cancel a job; return ``cancelled``, ``cancelling`` or ``final``."""
        ...

    def pause(self, job_id: str) -> str:
        """Pause a job; return ``paused``, ``pausing``, ``cancelling`` or ``final``."""
        ...

    def resume(self, job_id: str, budget: float | None) -> bool:
        """Resume a job; return True if it was paused."""
        ...

    def retry(self, job_id: str, changes: Mapping[str, Any], new_id: str | None) -> str:
        """Try a job again with changed fields; return the new job's id."""
        ...

    def queue(self, *, tenant: str | None, limit: int) -> "list[Entry]":
        """List the jobs that wait, the next to start first."""
        ...

    def why(self, job_id: str) -> "Explanation":
        """Explain why a job waits."""
        ...


@contextmanager
def jobs_at(server: str | None) -> Generator[JobAccess]:
    """Open the jobs of a server, or of this machine's record where none is named."""
    if not server:
        from .local_jobs import LocalJobs  # noqa: PLC0415  (a command for a server loads no SQL)

        yield LocalJobs()
        return
    from ..api.client.jobs import RemoteJobs  # noqa: PLC0415  (most commands call no server)

    with connect(server) as connection:
        yield RemoteJobs(connection)


def connect(server: str) -> "Connection":
    """Open a connection to a server, with the key and the permission of the environment."""
    from ..api.client.connection import Connection  # noqa: PLC0415  (most commands call no server)
    from ..api.client.server import API_KEY, PLAIN_HTTP, parse_server  # noqa: PLC0415  (the same)

    key = os.environ.get(API_KEY, "").strip()
    permitted = os.environ.get(PLAIN_HTTP, "").lower() in ("1", "true", "yes")
    return Connection(parse_server(server, key, plain_http=permitted))
