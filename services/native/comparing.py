"""Compares two trained adapters of a tenant by their stored evaluations on the same rows."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from ...errors import RequestError
from ...models import champions
from ...models.database import get_database
from ...models.openai import job_requests
from ...models.ratings import BASE
from ...models.scope.scope import Scope
from ...models.tables import Job
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from .. import comparison
from ..comparison import Contestant


def compare(tenant: str, one: str, other: str, settings: Settings) -> dict[str, Any]:
    """Return the measures of two sides by held-out set, with the difference and its interval.

    Args:
        tenant: The owner of both.
        one: The id of a job, the name of a champion, or ``base``.
        other: The same.
        settings: The installation's.

    Raises:
        RequestError: There is no such job or champion (404), or both are the base.
        SettingsError: They were not evaluated on the same rows.
    """
    if one == other:
        raise RequestError("other: it is the same as one.", param="other")
    with get_database().session(Scope.of(tenant)) as session:
        sides = [_side(session, tenant, name) for name in (one, other)]
    found = comparison.stored(Artifacts(settings.artifacts), sides)
    sets = {name: comparison.figures(lines, "s0", "s1") for name, lines in found.sets.items()}
    return {"one": sides[0].key, "other": sides[1].key, "together": found.together, "notes": found.notes, "sets": sets}


def _side(session: Session, tenant: str, name: str) -> Contestant:
    if name == BASE:
        return Contestant(BASE)
    champion = champions.find(session, tenant, name) if len(name) <= 64 else None  # noqa: PLR2004  (a column's width)
    job = job_requests.find_job(session, tenant, champion.job_id if champion else name)
    whole = select(Job).where(Job.id == job.id).options(undefer("*")).execution_options(populate_existing=True)
    read = session.scalars(whole).one()
    session.expunge(read)  # the evaluations are read without a connection
    return Contestant(name, read)
