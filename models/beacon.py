"""Since when somebody has watched the record without a lapse: what a reaper must know before it takes a job away.

While the database is away nobody can renew a lease, so the first look after an outage finds leases that ran out though
their workers live. All who watch share one row, so two reapers and a restarted one know as much as one that never left.
"""

from datetime import timedelta

from sqlalchemy.orm import Session

from .database import now
from .journal import inserter
from .tables import Beacon

_LONG = timedelta(days=1)


def watch(session: Session, name: str, *, lapse_s: float) -> float:
    """Look, and learn for how long there has been a look at least every ``lapse_s`` seconds, by the database's clock.

    Args:
        session: An open session; the look counts if it commits.
        name: Who looks; all of one name share their looks.
        lapse_s: A longer pause than this begins the count anew.

    Returns:
        Seconds; 0 at the first look after a lapse. A record at which nobody has looked yet counts as watched for long.
    """
    at = now(session)
    first = inserter(session)(Beacon).values(name=name, seen_at=at, since=at - _LONG)
    session.execute(first.on_conflict_do_nothing(index_elements=["name"]))
    row = session.get_one(Beacon, name, populate_existing=True, with_for_update=True)
    if (at - row.seen_at).total_seconds() > lapse_s:
        row.since = at
    row.seen_at = max(row.seen_at, at)
    session.flush()
    return (row.seen_at - row.since).total_seconds()
