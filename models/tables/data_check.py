"""Defines the table of checks of data that were asked for over HTTP, each with its result."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table


class DataCheck(Table):
    """A check of a tenant's data; nothing of it stays after ``expires_at``.

    ``spec`` is the spec that the installation has accepted, ``file_names`` has the names of its files by set.
    ``sent_at`` is the time of its last message, ``claimed_until`` the time until which a worker has claimed it, and
    ``tries`` counts the claims. ``result`` holds ``receipt``, ``error`` and ``failure``; it is null until the end.
    """

    __tablename__ = "data_check"
    __table_args__ = (Index(None, "expires_at"), Index(None, "tenant"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    spec: Mapped[JsonObject]
    file_names: Mapped[JsonObject]
    result: Mapped[JsonObject | None]
    tries: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    sent_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
