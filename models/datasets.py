"""Datasets by name: versions of a content, and which job saw which.

``faq`` is the newest version of that name, ``faq@3`` the third. A version is a content: the same file twice is one
version, and a name's versions count from 1. Names belong to a tenant.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..settings.errors import NotFoundError, SettingsError
from .gate import REQUIRED
from .journal import inserter
from .spec import JobSpec
from .tables import Dataset, Job, JobDataset

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([1-9][0-9]{{0,8}}))?")
TRAIN, HELD_OUT = "train", "eval"


@dataclass(frozen=True, slots=True)
class Reference:
    """A dataset as somebody writes it: a name, and a version or the newest."""

    name: str
    version: int | None

    @classmethod
    def parse(cls, words: str) -> "Reference | None":
        """What the words refer to; None where they can't be a name: a path, a URL."""
        found = REFERENCE.fullmatch(words)
        return cls(found[1], int(found[2]) if found[2] else None) if found else None


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        SettingsError: It can't be a dataset's name.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be a dataset's name.",
            hint="Use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit: --name support-faq.",
        )
    return name


def name_of(file: Path) -> str:
    """A name for a file that has none: its own, without what says how it is read."""
    stem = file.name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    words = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return words.strip("._-")[:64] or "dataset"


def find(session: Session, tenant: str, reference: str) -> Dataset:
    """The version that a reference means, the newest where it names none.

    Raises:
        NotFoundError: There is no such name or version; the message says what there is.
    """
    parsed = Reference.parse(reference)
    if parsed is None:
        raise NotFoundError(f"{reference!r} is no dataset's name.", hint="Write NAME or NAME@VERSION.")
    mine = (Dataset.tenant == tenant, Dataset.name == parsed.name)
    newest = session.scalars(select(Dataset).where(*mine).order_by(Dataset.version.desc()).limit(1)).one_or_none()
    if newest is None:
        names = list(session.scalars(select(Dataset.name).where(Dataset.tenant == tenant).distinct()))
        near = difflib.get_close_matches(parsed.name, names, n=1)
        raise NotFoundError(
            f"there is no dataset {parsed.name}" + (f"; did you mean {near[0]}?" if near else "."),
            hint="See `celora datasets list`; a file is given by its path: ./train.jsonl.",
        )
    if parsed.version is None or parsed.version == newest.version:
        return newest
    found = session.scalars(select(Dataset).where(*mine, Dataset.version == parsed.version)).one_or_none()
    if found is None:
        raise NotFoundError(
            f"dataset {parsed.name} has no version {parsed.version}; its newest is {newest.version}.",
            hint=f"See `celora datasets show {parsed.name}`.",
        )
    return found


def of_content(session: Session, tenant: str, sha256: str) -> Dataset | None:
    """The version with that content that was registered last, under whatever name."""
    same = select(Dataset).where(Dataset.tenant == tenant, Dataset.sha256 == sha256)
    return session.scalars(same.order_by(Dataset.id.desc()).limit(1)).one_or_none()


def of_uri(session: Session, tenant: str, uri: str) -> Dataset | None:
    """The version at that place that was registered last."""
    same = select(Dataset).where(Dataset.tenant == tenant, Dataset.uri == uri)
    return session.scalars(same.order_by(Dataset.id.desc()).limit(1)).one_or_none()


def resolved(session: Session, spec: JobSpec) -> tuple[JobSpec, dict[str, Dataset]]:
    """A spec with each dataset's name replaced by where that version lies, and the versions by role.

    A place that is some version's own is told too, so that a job that named the file says what it saw.

    Raises:
        NotFoundError: A name or a version that is not there.
    """
    versions: dict[str, Dataset] = {}

    def place(role: str, source: str) -> str:
        named = Reference.parse(source)
        found = find(session, spec.tenant, source) if named else of_uri(session, spec.tenant, source)
        if found is not None:
            versions[role] = found
        return found.uri if found else source

    given = spec.eval_dataset
    held_out = {name: place(name, source) for name, source in given.items()} if isinstance(given, dict) else given
    if isinstance(held_out, str):
        held_out = place(HELD_OUT, held_out)
    changed: dict[str, Any] = {"dataset": place(TRAIN, spec.dataset), "eval_dataset": held_out}
    if spec.gate is not None and spec.gate.must_pass:
        rows = place(REQUIRED, spec.gate.must_pass)
        changed["gate"] = spec.gate.model_copy(update={"must_pass": rows})
    return spec.model_copy(update=changed), versions


def listed(session: Session, *, tenant: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    """Every version by name, the newest of each name first, with the number of jobs that saw it."""
    jobs = select(JobDataset.dataset_id, func.count().label("jobs")).group_by(JobDataset.dataset_id).subquery()
    wanted = select(Dataset, jobs.c.jobs).outerjoin(jobs, jobs.c.dataset_id == Dataset.id)
    if tenant is not None:
        wanted = wanted.where(Dataset.tenant == tenant)
    if name is not None:
        wanted = wanted.where(Dataset.name == name)
    rows = session.execute(wanted.order_by(Dataset.tenant, Dataset.name, Dataset.version.desc()))
    columns = ("tenant", "name", "version", "rows", "size_bytes", "sha256", "uri", "created_at")
    return [{**{column: getattr(row, column) for column in columns}, "jobs": count or 0} for row, count in rows]


def saw(session: Session, job_id: str, versions: Mapping[str, Dataset]) -> None:
    """Write down which versions a job sees, by role; what was written before stays."""
    for role, dataset in versions.items():
        values = {"job_id": job_id, "role": role, "dataset_id": dataset.id}
        session.execute(
            inserter(session)(JobDataset).values(values).on_conflict_do_nothing(index_elements=["job_id", "role"])
        )


def seen_by(session: Session, job_id: str) -> dict[str, dict[str, Any]]:
    """The versions that a job saw, by role, the training rows' first: name, version, sha256."""
    pairs = select(JobDataset.role, Dataset).join(Dataset, Dataset.id == JobDataset.dataset_id)
    pairs = pairs.where(JobDataset.job_id == job_id)
    rows = session.execute(pairs.order_by(JobDataset.role != TRAIN, JobDataset.role))
    return {role: {"name": row.name, "version": row.version, "sha256": row.sha256} for role, row in rows}


def jobs_that_saw(session: Session, dataset: Dataset, limit: int = 50) -> list[dict[str, Any]]:
    """The jobs that saw a version, the newest first: id, status, role."""
    pairs = select(Job.id, Job.status, JobDataset.role).join(JobDataset, JobDataset.job_id == Job.id)
    rows = session.execute(
        pairs.where(JobDataset.dataset_id == dataset.id).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    )
    return [{"id": job_id, "status": status.value, "role": role} for job_id, status, role in rows]
