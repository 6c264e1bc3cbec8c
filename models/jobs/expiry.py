"""Ends jobs whose caller set a time (Celery's ``expires``) that passed before their training began.

Celery itself drops a message that expired in its queue. A job's message is taken at once, and the job then waits for a
GPU in the record; so the time is kept with the caller's request and judged here, in each scheduling round.
"""

from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Select, bindparam, select, update
from sqlalchemy.orm import Session

from ..columns import request_of
from ..database import now
from ..events import record_event
from ..rows import lock_if
from ..states import Stage, Status
from ..tables import Job
from .lifecycle import end

READ = datetime(1971, 1, 1, tzinfo=UTC)
"""A time before this one is the server default: the program that wrote the row did not know the column."""
AT_ONCE = 1_000
"""Rows that a round reads at most."""
EXPIRES, EXPIRED = "expires", "expired"
"""Entries of a job's ``request``: the caller's time (ISO 8601), and True once the job was ended by it."""

_WAITS = (
    Job.status.in_((Status.PENDING, Status.QUEUED)),
    Job.stage.in_((Stage.PREPARE, Stage.TRAIN)),
    Job.gpu_seconds == 0,
    Job.resume_of.is_(None),
)
"""A job of which nothing was trained."""


def expire_waiting(session: Session, at: datetime | None = None) -> list[str]:
    """Cancel each waiting job whose time passed, and queue the announcement of its end; return the ids.

    Args:
        session: An open session of all tenants.
        at: The present time by the database's clock; read from it unless given.
    """
    at = at or now(session)
    if session.scalar(_earliest_statement(), {"at": at}) is None:
        return []
    _read_requests(session)
    over = select(Job.id, Job.status).where(Job.expires_at > READ, Job.expires_at <= at)
    due = [job_id for job_id, status in session.execute(over) if status is not Status.RUNNING]
    return [job_id for job_id in due if _expire(session, job_id)]


@cache
def _earliest_statement() -> Select[str]:
    """Build the search for a row that is due or unread, once: nearly every round finds none."""
    return select(Job.id).where(Job.expires_at <= bindparam("at", type_=Job.expires_at.type)).limit(1)


def _read_requests(session: Session) -> None:
    """Write the caller's time into rows of a program that does not know the column, some of them in each round."""
    unread = select(Job.id, Job.status, Job.request).where(Job.expires_at < READ).limit(AT_ONCE)
    times = {
        job_id: None if status.final else expiry_of(request) for job_id, status, request in session.execute(unread)
    }
    for time in set(times.values()):
        mine = [job_id for job_id, each in times.items() if each == time]
        written = update(Job).where(Job.id.in_(mine)).values(expires_at=time)
        session.execute(written.execution_options(synchronize_session=False))


def expiry_of(request: object) -> datetime | None:
    """Return the time after which the caller does not want the job any more; None if the request sets none."""
    text = request.get(EXPIRES) if isinstance(request, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(text, str):
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _expire(session: Session, job_id: str) -> bool:
    job = lock_if(session, job_id, *_WAITS)
    if job is None:  # it was claimed meanwhile
        return False
    words = "its caller's expires passed before its training began"
    record_event(session, job_id, job.attempt, "info", EXPIRED, words, {EXPIRES: request_of(job).get(EXPIRES)})
    job.request = {**request_of(job), EXPIRED: True}
    end(session, job, Status.CANCELLED)
    return True
