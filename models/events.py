"""Appends to a job's history, which people read as its log and programs as its events."""

from typing import Literal

from sqlalchemy.orm import Session

from .database import now
from .tables import Event
from .tables.types import JsonObject

Level = Literal["info", "warning", "error"]


def record_event(  # noqa: PLR0917  (who, how bad, what: the order of a log line)
    session: Session,
    job_id: str,
    attempt: int,
    level: Level,
    kind: str,
    message: str,
    data: JsonObject | None = None,
) -> None:
    """Append an event to a job's history.

    Args:
        session: An open session.
        job_id: The job.
        attempt: The attempt in which it happened.
        level: The severity.
        kind: A stable word for programs, like ``stage_started``.
        message: A sentence for people.
        data: Facts for programs.
    """
    session.add(
        Event(job_id=job_id, attempt=attempt, at=now(session), level=level, kind=kind, message=message, data=data)
    )
    session.flush()
