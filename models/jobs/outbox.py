"""Keeps the outbox: the ends of jobs that are still to be announced to their callers.

The row is written in the transaction that ends the job. A process claims the row for a while before it announces, so
two do not announce at once, and one that dies leaves the row to the next.
"""

from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from ..database import now
from ..rows import upsert_insert
from ..tables import Announcement


def queue_announcement(session: Session, job_id: str) -> None:
    """Queue the announcement of a job's end; queue it again if it was made already."""
    queued = upsert_insert(session, Announcement).values(job_id=job_id, created_at=now(session), attempts=0)
    again = {"announced_at": None, "claimed_until": None, "attempts": 0}
    session.execute(queued.on_conflict_do_update(index_elements=["job_id"], set_=again))


def claim_announcement(session: Session, job_id: str, for_s: float) -> bool:
    """Claim the announcement of a job's end for ``for_s`` seconds; False if it was made or is claimed by another."""
    at = now(session)
    free = or_(Announcement.claimed_until.is_(None), Announcement.claimed_until < at)
    taken = session.scalar(
        update(Announcement)
        .where(Announcement.job_id == job_id, Announcement.announced_at.is_(None), free)
        .values(claimed_until=at + timedelta(seconds=for_s), attempts=Announcement.attempts + 1)
        .returning(Announcement.job_id)
        .execution_options(synchronize_session=False)
    )
    return taken is not None


def mark_announced(session: Session, job_id: str) -> None:
    """Mark the end of a job as announced to its caller."""
    session.execute(
        update(Announcement)
        .where(Announcement.job_id == job_id)
        .values(announced_at=now(session))
        .execution_options(synchronize_session=False)
    )
