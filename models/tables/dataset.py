"""Defines the tables of datasets: versions of contents under a name, and the versions that each job used."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import Mapped, mapped_column

from .types import Table, job_key


class Dataset(Table):
    """An imported dataset: content by its hash, a name with versions; the same content under a name is one version.

    ``file_name`` is the name of the file as its user wrote it; unknown for versions from before it was kept.
    """

    __tablename__ = "dataset"
    __table_args__ = (Unique("tenant", "name", "version"), Unique("tenant", "name", "sha256"))

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), ForeignKey("tenant.name"))
    name: Mapped[str]
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    uri: Mapped[str]
    file_name: Mapped[str | None]
    rows: Mapped[int | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


TRAIN = "train"
"""The role of the training rows among the datasets of a job."""


class JobDataset(Table):
    """The version of a dataset that a job used; ``role`` is ``train``, or the name of a held-out set."""

    __tablename__ = "job_dataset"
    __table_args__ = (Index(None, "dataset_id"),)

    job_id: Mapped[str] = job_key(primary=True)
    role: Mapped[str] = mapped_column(String(64), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
