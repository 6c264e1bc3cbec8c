"""Defines the table of files that came over HTTP; equal contents are stored once, whoever sent them."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from .types import Table


class File(Table):
    """A file of a tenant; ``status`` is uploaded (its check has not ended), processed or error.

    ``checks`` counts the tries of its check, ``check_sent_at`` is the time of its last message, and ``checked_until``
    the time until which a worker has claimed the present try. A deleted row stays until no unfinished job needs its
    content (``services.openai.file_sweep``).
    """

    __tablename__ = "file"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "status", "check_sent_at"),
        Index(None, "uri"),
        Index(None, "deleted_at"),
        Index(None, "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    uri: Mapped[str]
    status: Mapped[str] = mapped_column(String(16))
    status_details: Mapped[str | None]
    rows: Mapped[int | None]
    checks: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    check_sent_at: Mapped[datetime]
    checked_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
