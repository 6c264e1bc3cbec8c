"""The outbox: the ends of jobs that their callers are still to be told of.

The row is written with the end itself. Whoever announces claims it for a while first, so that two do not announce at
once, and one that dies leaves it to the next.
"""

from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from .database import now
from .journal import inserter
from .tables import Announcement


def announce(session: Session, job_id: str) -> None:
    """Owe the news of a job's end, again if it was told before."""
    at = now(session)
    owed = inserter(session)(Announcement).values(job_id=job_id, created_at=at, attempts=0)
    again = {"announced_at": None, "claimed_until": None}
    session.execute(owed.on_conflict_do_update(index_elements=["job_id"], set_=again))


def announce_claim(session: Session, job_id: str, for_s: float) -> bool:
    """Take it upon oneself to announce a job's end within ``for_s`` seconds; False if it was, or another is at it."""
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


def announce_done(session: Session, job_id: str) -> None:
    """The caller was told."""
    session.execute(
        update(Announcement)
        .where(Announcement.job_id == job_id)
        .values(announced_at=now(session))
        .execution_options(synchronize_session=False)
    )
