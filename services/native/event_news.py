"""Reads the new events of many jobs at once, for the streams that watch them.

Unusual: the jobs may belong to several tenants. Whoever opens a stream has looked its job up in its own tenant's scope
before, and a job never changes its tenant; each event is worded for the tenant of its job. A row that cannot be read or
worded ends the streams of its own job: the jobs are then read one by one.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Integer, String, column, select, values
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ...errors import CeloraError
from ...models.database import get_database
from ...models.scope.scope import Scope
from ...models.states import LIVE
from ...models.tables import Event, Job
from ..tenants.job_views import TOLD, EventLine, event_lines

logger = logging.getLogger(__name__)

MOST_READ = 500
"""Events of a read."""


@dataclass(frozen=True, kw_only=True)
class News:
    """The new events of watched jobs.

    Attributes:
        lines: The events in order, by the id of the job.
        ended: The jobs that have ended, or are gone, and have no further events.
        more: True if further events wait to be read.
        faulty: The jobs of which an event cannot be read or worded; the log says why.
    """

    lines: Mapping[str, list[EventLine]]
    ended: frozenset[str]
    more: bool
    faulty: frozenset[str] = frozenset()


def read_news(after: Mapping[str, int], limit: int = MOST_READ) -> News:
    """Read the events of jobs, of each those after an event of its own, and which of the jobs have ended.

    Args:
        after: The id of the last known event, by the id of the job.
        limit: The number of events to read at most; of each job, where they are read one by one.

    Raises:
        UnavailableError: The record can't be reached.
    """
    together = _attempt(after, limit)
    if together is not None:
        return together
    each = {job_id: _attempt({job_id: event_id}, limit) for job_id, event_id in after.items()}
    read = [news for news in each.values() if news is not None]
    return News(
        lines={job_id: lines for news in read for job_id, lines in news.lines.items()},
        ended=frozenset[str]().union(*(news.ended for news in read)),
        more=any(news.more for news in read),
        faulty=frozenset(job_id for job_id, news in each.items() if news is None),
    )


def _attempt(after: Mapping[str, int], limit: int) -> News | None:
    """Read the events of jobs; None if one of them cannot be read or worded."""
    try:
        return _read(after, limit)
    except (CeloraError, SQLAlchemyError):  # the record itself does not answer, whichever jobs are asked for
        raise
    except Exception:
        logger.exception("events of %s cannot be shown", next(iter(after)) if len(after) == 1 else f"{len(after)} jobs")
        return None


def _read(after: Mapping[str, int], limit: int) -> News:
    """Read the end of jobs first: the events that were written with it are then there as well."""
    with get_database().session(Scope.everything) as session:
        live = select(Job.id).where(Job.id.in_(list(after)), Job.status.in_(LIVE))
        ended = after.keys() - set(session.scalars(live))
        rows = _newer(session, after, limit)
        lines = defaultdict[str, list[EventLine]](list)
        for row, line in zip(rows, event_lines(session, rows), strict=True):
            lines[row.job_id].append(line)
    more = len(rows) == limit
    return News(lines=lines, ended=frozenset() if more else frozenset(ended), more=more)


def _newer(session: Session, after: Mapping[str, int], limit: int) -> list[Event]:
    """Read the events by one search of the index for each job, however long the histories are."""
    named = values(column("job_id", String), column("event_id", Integer)).data(list(after.items()))
    known = named.cte("known")  # SQLite names the columns of values in no other place
    newer = select(Event).join(known, (Event.job_id == known.c.job_id) & (Event.id > known.c.event_id))
    return list(session.scalars(newer.where(Event.kind.in_(TOLD)).order_by(Event.id).limit(limit)))
