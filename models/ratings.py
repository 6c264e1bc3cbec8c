"""Stores people's choices between two answers that were shown blind, and counts them."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, bindparam, func, or_, select
from sqlalchemy.orm import Session

from .database import now
from .rows import upsert_insert
from .scope.session import KEPT
from .tables import Rating

BASE = "base"
"""The name of the bare base model, in the place of a job's id."""

_JOB_ID = bindparam("job_id", type_=String())
_RIVALS = (
    select(Rating.one, Rating.other)
    .where(Rating.tenant == bindparam("tenant", type_=String()), or_(Rating.one == _JOB_ID, Rating.other == _JOB_ID))
    .distinct()
    .execution_options(**{KEPT: True})
)


@dataclass(frozen=True, slots=True)
class Votes:
    """The number of times that each of two answers was preferred."""

    wins: int
    losses: int
    neither: int = 0

    @property
    def decided(self) -> int:
        """The number of choices that preferred one of the two."""
        return self.wins + self.losses


def rate(
    session: Session,
    *,
    tenant: str,
    first: tuple[str, str],
    second: tuple[str, str],
    choice: int | None,
    held_out: str,
    prompt: str,
    by: str,
) -> None:
    """Record a choice; the same person's earlier choice about the same two and the same prompt is replaced.

    Args:
        session: An open session.
        tenant: The tenant that owns the jobs.
        first: A job (or ``base``) and its answer.
        second: The other job and its answer.
        choice: 0 for the first, 1 for the second, None for neither.
        held_out: The held-out set that contains the prompt.
        prompt: The prompt that both answered.
        by: The person who chose.
    """
    one, other = sorted((first, second))
    chosen = "neither" if choice is None else "one" if (first, second)[choice] == one else "other"
    values: dict[str, Any] = {
        "tenant": tenant,
        "one": one[0],
        "other": other[0],
        "held_out": held_out,
        "prompt_sha256": hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(),
        "prompt": prompt,
        "answer_one": one[1],
        "answer_other": other[1],
        "choice": chosen,
        "by": by,
        "at": now(session),
    }
    insert = upsert_insert(session, Rating).values({getattr(Rating, name): value for name, value in values.items()})
    renewed = {name: insert.excluded[name] for name in ("held_out", "answer_one", "answer_other", "choice", "at")}
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["tenant", "one", "other", "prompt_sha256", "by_whom"], set_=renewed
        )
    )


def votes(session: Session, tenant: str, job_id: str, rival: str) -> Votes:
    """Count how often people preferred a job's answers to those of a rival (a job or ``base``)."""
    one, other = sorted((job_id, rival))
    mine = (Rating.tenant == tenant, Rating.one == one, Rating.other == other)
    rows = session.execute(select(Rating.choice, func.count()).where(*mine).group_by(Rating.choice))
    count = {str(choice): int(number) for choice, number in rows}
    ours, theirs = ("one", "other") if one == job_id else ("other", "one")
    return Votes(count.get(ours, 0), count.get(theirs, 0), count.get("neither", 0))


def rated_prompts(session: Session, tenant: str, job_id: str, rival: str, by: str) -> set[str]:
    """Return the prompts for which a person has chosen between the two already."""
    one, other = sorted((job_id, rival))
    mine = (Rating.tenant == tenant, Rating.one == one, Rating.other == other, Rating.by == by)
    return set(session.scalars(select(Rating.prompt).where(*mine)))


def of_job(session: Session, tenant: str, job_id: str) -> list[dict[str, Any]]:
    """List people's choices between a job and each rival that it was rated against: ``against`` and the votes."""
    rivals: set[str] = set()
    for one, other in session.execute(_RIVALS, {"tenant": tenant, "job_id": job_id}):
        rivals.add(str(other if one == job_id else one))
    found = [(rival, votes(session, tenant, job_id, rival)) for rival in sorted(rivals)]
    return [
        {"against": rival, "wins": each.wins, "losses": each.losses, "neither": each.neither} for rival, each in found
    ]
