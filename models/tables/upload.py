"""Defines the tables of uploads: files that come over HTTP in parts, and become a file when they are complete."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .types import Table


class Upload(Table):
    """A file of a tenant that comes in parts; ``status`` is pending, completed, cancelled or expired.

    ``size_bytes`` is the size that was announced, ``file_expires_s`` the life of the file that it becomes.
    ``joining_until`` is the time until which a request has claimed the joining of the parts.
    """

    __tablename__ = "upload"
    __table_args__ = (Index(None, "expires_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    file_expires_s: Mapped[int | None]
    status: Mapped[str] = mapped_column(String(16))
    file_id: Mapped[str | None] = mapped_column(String(64))
    joining_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class UploadPart(Table):
    """A part of an upload, whose content is stored."""

    __tablename__ = "upload_part"
    __table_args__ = (Index(None, "upload_id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(String(64), ForeignKey("upload.id", ondelete="CASCADE"))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    uri: Mapped[str]
    created_at: Mapped[datetime]
