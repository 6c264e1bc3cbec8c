"""Changes a job's status in one function, which also writes the event of the change.

Nothing else assigns ``Job.status``: a test reads the code for it. The caller holds the row (``rows.lock_if``), so
no other process changes it until the caller commits.
"""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from ..events import Level, record_event
from ..states import Reason, Status
from ..tables import Job
from ..tables.types import JsonObject


@dataclass(frozen=True)
class Cause:
    """The event that explains a change of status.

    Attributes:
        kind: A stable word for programs.
        message: A sentence for people.
        data: Facts for programs.
        level: The severity.
    """

    kind: str
    message: str
    data: JsonObject = field(default_factory=dict[str, object])
    level: Level = "info"


def switch_status(session: Session, job: Job, to: Status, cause: Cause, *, reason: Reason = Reason.NONE) -> None:
    """Change a job's status and write the event that explains the change, under the attempt that was valid until now.

    A job that does not run has no worker, no lease and no start of a stage.

    Args:
        session: An open session.
        job: The row, held by the caller.
        to: The new status; the present one where only the reason changes.
        cause: The event.
        reason: The reason that the row shows.
    """
    job.status, job.reason = to, reason
    if to is not Status.RUNNING:
        release_row(job)
    record_event(session, job.id, job.attempt, cause.level, cause.kind, cause.message, cause.data)


def release_row(job: Job) -> None:
    """Clear what a worker's claim left in the row: the worker, the lease, the start of the stage."""
    job.worker_id, job.lease_until, job.claimed_at = None, None, None
