"""Corrects the times of a record whose clock was set back.

A clock that ran ahead leaves times in the future. Until the clock reaches them, a lease does not run out, a dead worker
looks alive, and a retry or an announcement waits. Living workers renew their leases and heartbeats within seconds; this
module corrects what nobody renews. The times of schedules are corrected in their own round, because each of their runs
has a key that prevents a second one.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, CursorResult, Update, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from ..states import FINAL, Status
from ..tables import Announcement, ChampionEvent, Job, Table, Worker


def correct_future_times(session: Session, at: datetime, *, lease_s: float) -> int:
    """Correct every time in the future that delays work; a record with a correct clock is not changed.

    Args:
        session: An open session.
        at: The present time of the database's clock.
        lease_s: The longest lease that a worker takes now.

    Returns:
        The number of corrected rows.
    """
    lease_end = at + timedelta(seconds=lease_s)
    changes = (
        _limit(Job, Job.lease_until, lease_end, Job.status == Status.RUNNING),
        _limit(Job, Job.sent_at, at, Job.status == Status.QUEUED),
        # The wait of a retry began at ``updated_at``; a wait that a correct clock began is not cut short.
        update(Job)
        .where(Job.status.not_in(FINAL), Job.not_before > at, Job.updated_at > at)
        .values(not_before=None, updated_at=at),
        _limit(Announcement, Announcement.claimed_until, lease_end, Announcement.announced_at.is_(None)),
        _limit(ChampionEvent, ChampionEvent.claimed_until, lease_end, ChampionEvent.told_at.is_(None)),
        _limit(Worker, Worker.last_seen_at, at, Worker.status != "offline"),
    )
    return sum(_changed_rows(session, change) for change in changes)


def _limit(
    table: type[Table],
    column: InstrumentedAttribute[datetime | None] | InstrumentedAttribute[datetime],
    latest: datetime,
    condition: ColumnElement[bool],
) -> Update:
    return update(table).where(condition, column > latest).values({column: latest})


def _changed_rows(session: Session, change: Update) -> int:
    result = session.execute(change.execution_options(synchronize_session=False))
    return result.rowcount if isinstance(result, CursorResult) else 0
