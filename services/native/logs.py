"""Reads the whole logs of a tenant's job piece by piece, without secrets and without names that are the operator's.

A reader continues at the offset that the piece before ended with. While the job is under way a piece ends with a whole
line, because a name that two pieces share could not be recognised.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ...errors import RequestError
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.scope.scope import Scope
from ...models.states import LIVE, Stage
from ...settings.redaction import redactor
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ..tenants import words
from ..tenants.job_views import machines_of

PIECE_BYTES = 1 << 20
"""Size of the largest piece."""


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A log of a job: that of one stage in one attempt."""

    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of a log.

    Attributes:
        text: The lines.
        next: The offset at which the next piece begins.
        more: True if the log holds more lines at this moment.
    """

    text: str
    next: int
    more: bool


def list_logs(tenant: str, job_id: str, settings: Settings) -> tuple[list[LogFile], bool]:
    """List the logs of a job in the order of its work; the second value is True once the job has ended.

    Raises:
        RequestError: There is no such job (404).
    """
    attempts, ended, _ = _job(tenant, job_id)
    artifacts, found = Artifacts(settings.artifacts), list[LogFile]()
    for attempt in range(1, attempts + 1):
        for stage in Stage:
            name = f"{attempt:03d}-{stage}.log"
            uri = artifacts.uri("jobs", job_id, "logs", name)
            if artifacts.exists(uri):
                found.append(LogFile(name=name, size_bytes=artifacts.size_bytes(uri)))
    return found, ended


def read_log(tenant: str, job_id: str, name: str, *, after: int, settings: Settings) -> Piece:
    """Read a piece of a log from an offset on.

    Args:
        tenant: The job's owner.
        job_id: The job.
        name: The name of the log, as ``list_logs`` gives it.
        after: The offset in bytes; one beyond the log's end counts as its end, since its middle may have been cut out.
        settings: The installation's.

    Raises:
        RequestError: There is no such job or no such log (404).
    """
    _, ended, names = _job(tenant, job_id)
    artifacts = Artifacts(settings.artifacts)
    uri = artifacts.uri("jobs", job_id, "logs", name)
    if not artifacts.exists(uri):
        raise RequestError(f"the job has no log {name}.", reason="not_ready", status=404)
    content = b"".join(artifacts.read_parts(uri))
    after = min(after, len(content))
    piece = content[after : after + PIECE_BYTES]
    more = after + len(piece) < len(content)
    if more or not ended:
        piece = _whole_lines(piece, full=len(piece) == PIECE_BYTES)
    lines = piece.decode("utf-8", "replace").split("\n")
    text = "\n".join(words.text(redactor().text(line), names) for line in lines)
    return Piece(text=text, next=after + len(piece), more=more)


def _job(tenant: str, job_id: str) -> tuple[int, bool, Collection[str]]:
    """Return the number of a job's attempts, whether it has ended, and the names of its machines."""
    with get_database().session(Scope.of(tenant)) as session:
        job = job_requests.find_job(session, tenant, job_id)
        names = machines_of(session, [job.id]).get(job.id, frozenset())
        return int(job.attempt), job.status not in LIVE, names


def _whole_lines(piece: bytes, *, full: bool) -> bytes:
    """Cut a piece after its last line end; a full piece without one stays, so that a reader gets on."""
    end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
    return piece[:end] if end or not full else piece
