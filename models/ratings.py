"""What people preferred: choices between two answers that were shown blind, and how many fell on each side."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from .champion_tables import Rating
from .database import now
from .journal import inserter

BASE = "base"
"""In the place of a job: the bare base model."""


@dataclass(frozen=True, slots=True)
class Votes:
    """How often each of two was preferred."""

    wins: int
    losses: int
    neither: int = 0

    @property
    def decided(self) -> int:
        """Choices that fell on one of the two."""
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
    """Write a choice down; the same person's earlier choice about the same two and the same prompt is replaced.

    Args:
        session: An open session.
        tenant: Whose jobs they are.
        first: A job (or ``base``) and its answer.
        second: The other one and its answer.
        choice: 0 for the first, 1 for the second, None for neither.
        held_out: The set that the prompt is of.
        prompt: What both answered.
        by: Who chose.
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
    insert = inserter(session)(Rating).values({getattr(Rating, name): value for name, value in values.items()})
    renewed = {name: insert.excluded[name] for name in ("held_out", "answer_one", "answer_other", "choice", "at")}
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["tenant", "one", "other", "prompt_sha256", "by_whom"], set_=renewed
        )
    )


def votes(session: Session, tenant: str, job_id: str, rival: str) -> Votes:
    """How often people preferred a job's answers to a rival's (a job's or ``base``)."""
    one, other = sorted((job_id, rival))
    mine = (Rating.tenant == tenant, Rating.one == one, Rating.other == other)
    rows = session.execute(select(Rating.choice, func.count()).where(*mine).group_by(Rating.choice))
    count = {str(choice): int(number) for choice, number in rows}
    ours, theirs = ("one", "other") if one == job_id else ("other", "one")
    return Votes(count.get(ours, 0), count.get(theirs, 0), count.get("neither", 0))


def rated(session: Session, tenant: str, job_id: str, rival: str, by: str) -> set[str]:
    """The prompts about which somebody chose between the two already."""
    one, other = sorted((job_id, rival))
    mine = (Rating.tenant == tenant, Rating.one == one, Rating.other == other, Rating.by == by)
    return set(session.scalars(select(Rating.prompt).where(*mine)))


def of_job(session: Session, tenant: str, job_id: str) -> list[dict[str, Any]]:
    """What people preferred between a job and each rival that it was rated against: ``against`` and the votes."""
    mine = (Rating.tenant == tenant, or_(Rating.one == job_id, Rating.other == job_id))
    rivals: set[str] = set()
    for one, other in session.execute(select(Rating.one, Rating.other).where(*mine).distinct()):
        rivals.add(str(other if one == job_id else one))
    found = [(rival, votes(session, tenant, job_id, rival)) for rival in sorted(rivals)]
    return [
        {"against": rival, "wins": each.wins, "losses": each.losses, "neither": each.neither} for rival, each in found
    ]
