"""Guards writes of rows: locks a job's row under conditions, checks a claimed stage, builds the upsert.

A guarded write names the expected state of the row. If no row changed, another process owns the job now, and the caller
stops. ``owned`` guards every write of a running attempt; the attempt is its fencing token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from .database import now
from .states import Status
from .tables import Job, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has claimed; the claim holds until another worker claims the next attempt.

    Attributes:
        job_id: The job.
        attempt: The claimed attempt, the fencing token.
        worker_id: The worker's name.
        price_per_hour: The price of the worker's GPU, US dollars; 0 for a stage without one.
    """

    job_id: str
    attempt: int
    worker_id: str
    price_per_hour: float = 0.0


def lock_if(session: Session, job_id: str, *guard: ColumnElement[bool]) -> Job | None:
    """Lock a job's row until the commit if every condition holds now; None if one does not.

    The guarded UPDATE returns the row as it is in the database at that moment.
    """
    changed = (
        update(Job)
        .where(Job.id == job_id, *guard)
        .values(updated_at=now(session))
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    )
    return session.scalars(changed).one_or_none()


def owned(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Build the guard of a claimed stage: the attempt is the present one, runs, and belongs to that worker."""
    return (Job.attempt == claim.attempt, Job.status == Status.RUNNING, Job.worker_id == claim.worker_id)


def upsert_insert(session: Session, table: type[Table]) -> "postgresql.Insert | sqlite.Insert":
    """Build an INSERT that supports ON CONFLICT, in the dialect of the session's database."""
    from sqlalchemy.dialects import postgresql, sqlite  # noqa: PLC0415  (a twentieth of a short command that reads)

    on_sqlite = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(table) if on_sqlite else postgresql.insert(table)
