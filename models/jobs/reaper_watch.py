"""Detects gaps in the reaper's own runs, and a clock that was set back.

While the database is unavailable no worker can renew a lease, so after an outage every lease looks expired although
its worker lives. The reaper takes jobs back only once it has run without a gap for one full lease. All reapers share
one row, so two reapers, or one that restarted, have the same data as one that never stopped.
"""

from datetime import timedelta

from sqlalchemy.orm import Session

from ..database import now
from ..rows import upsert_insert
from ..tables import Beacon

_LONG = timedelta(days=1)


def watch(session: Session, name: str, *, lapse_s: float) -> float:
    """Record a run of the reaper, and return the time since the last gap between runs, by the database's clock.

    A clock that jumps by more than a pause is a gap, in either direction: ahead, every lease looks expired; back, a
    later gap would be invisible until the clock has caught up with the last run.

    Args:
        session: An open session; the run counts if it commits.
        name: The watch's name; all processes that use one name share their runs.
        lapse_s: A longer pause than this is a gap.

    Returns:
        Seconds since the last gap; 0 at the first run after one. A record without any run counts as watched for long.
    """
    at = now(session)
    first = upsert_insert(session, Beacon).values(name=name, seen_at=at, since=at - _LONG)
    session.execute(first.on_conflict_do_nothing(index_elements=["name"]))
    row = session.get_one(Beacon, name, populate_existing=True, with_for_update=True)
    if abs((at - row.seen_at).total_seconds()) > lapse_s:
        row.since = row.seen_at = at
    row.seen_at = max(row.seen_at, at)
    session.flush()
    return (row.seen_at - row.since).total_seconds()
