"""Defines the tables of jobs that came over HTTP: the request behind a job, labels, keys of repeated requests."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .types import JsonObject, Table, job_key


class JobRequest(Table):
    """The request of OpenAI's form that made a job; a job that came another way has none.

    ``model`` is the model as it was asked for, ``named`` the part of it that stands in the id of the trained model.
    ``hyperparameters`` holds what was asked, ``auto`` included. ``body_sha256`` is the hash of the body and of the id
    of the API key that it came with.
    """

    __tablename__ = "job_request"
    __table_args__ = (Index(None, "tenant", "body_sha256", "created_at"),)

    job_id: Mapped[str] = job_key(primary=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    model: Mapped[str]
    named: Mapped[str]
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16))
    hyperparameters: Mapped[JsonObject]
    body_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class JobLabel(Table):
    """A label of a job's metadata, so that jobs can be found by it."""

    __tablename__ = "job_label"
    __table_args__ = (Index(None, "tenant", "key", "value", "created_at", "job_id"),)

    job_id: Mapped[str] = job_key(primary=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    created_at: Mapped[datetime]


class IdempotencyKey(Table):
    """A key that a client chose for a request, and the job that the request made."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index(None, "created_at"),)

    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = job_key()
    created_at: Mapped[datetime]
