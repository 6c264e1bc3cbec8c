"""Defines the tables of champions: the adapter that a name points to, its changes, and people's preferences."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table, job_key


class Champion(Table):
    """A name that points to an adapter; ``version`` counts its changes and guards each change."""

    __tablename__ = "champion"

    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(64), ForeignKey("adapter.id"))
    version: Mapped[int]
    since: Mapped[datetime]


class ChampionEvent(Table):
    """An event of a champion, in order of ``id``; a change is also an outbox row until its notification was made.

    ``kind`` is promoted, promoted_by_hand or rolled_back (the pointer moved to ``job_id``, giving ``version``), or kept
    (``job_id`` challenged and did not pass). ``before`` is the job that was champion until then. ``told_at`` is when
    the command of the installation had been run, or there was none to run; ``fault`` is the command's error.
    """

    __tablename__ = "champion_event"
    __table_args__ = (Index(None, "tenant", "name", "id"), Index(None, "told_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    name: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    version: Mapped[int]
    job_id: Mapped[str] = job_key()
    before: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str]
    figures: Mapped[JsonObject | None]
    by: Mapped[str] = mapped_column("by_whom", default="")
    at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    claimed_until: Mapped[datetime | None]
    told_at: Mapped[datetime | None]
    fault: Mapped[str | None]


class Rating(Table):
    """One person's choice between two answers to a prompt, shown blind.

    ``one`` and ``other`` are jobs in alphabetical order, or ``base``; ``choice`` is one, other or neither.
    """

    __tablename__ = "rating"
    __table_args__ = (Unique("tenant", "one", "other", "prompt_sha256", "by_whom"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    one: Mapped[str] = mapped_column(String(64))
    other: Mapped[str] = mapped_column(String(64))
    held_out: Mapped[str]
    prompt_sha256: Mapped[str] = mapped_column(String(64))
    prompt: Mapped[str]
    answer_one: Mapped[str]
    answer_other: Mapped[str]
    choice: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column("by_whom", String(200))
    at: Mapped[datetime]
