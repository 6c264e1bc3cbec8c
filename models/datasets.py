"""Registers datasets by name: the versions of a name, and the versions that each job used.

``faq`` is the newest version of that name, ``faq@3`` the third. A version is identified by its content: the same file
twice is one version, and a name's versions count from 1. Names belong to a tenant.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..errors import NotFoundError, SettingsError, did_you_mean
from .database import now
from .promotion_gate import REQUIRED
from .rows import upsert_insert
from .spec import JobSpec
from .tables import Dataset, Job, JobDataset, Tenant
from .tables.dataset import TRAIN

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([1-9][0-9]{{0,8}}))?")
HELD_OUT = "eval"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a dataset: a name, and a version or the newest."""

    name: str
    version: int | None

    @classmethod
    def parse(cls, words: str) -> "Reference | None":
        """Parse a reference; None where the words can't be a name, such as a path or a URL."""
        found = REFERENCE.fullmatch(words)
        return cls(found[1], int(found[2]) if found[2] else None) if found else None


def check_name(name: str) -> str:
    """Return the name if it can be a dataset's name.

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
    """Derive a dataset's name from the name of a file, without the suffixes of its format."""
    stem = file.name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    words = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return words.strip("._-")[:64] or "dataset"


def file_name(dataset: Dataset) -> str:
    """Return the name of a version's file as its user wrote it, else the dataset's name with the suffix of its kind."""
    if dataset.file_name:
        return dataset.file_name
    kept = dataset.uri.rsplit("/", 1)[-1]
    return f"{dataset.name}.{kept.partition('.')[2] or 'jsonl'}"


def file_names(session: Session, job_id: str) -> dict[str, str]:
    """Return the names of the files that a job uses, by role."""
    used = select(JobDataset.role, Dataset).join(Dataset, Dataset.id == JobDataset.dataset_id)
    rows = session.execute(used.where(JobDataset.job_id == job_id))
    return {row[0]: file_name(row[1]) for row in rows}


def find(session: Session, tenant: str, reference: str) -> Dataset:
    """Find the version that a reference names, the newest where it names none.

    Raises:
        NotFoundError: There is no such name or version; the message lists what there is.
    """
    parsed = Reference.parse(reference)
    if parsed is None:
        raise NotFoundError(f"{reference!r} is no dataset's name.", hint="Write NAME or NAME@VERSION.")
    mine = (Dataset.tenant == tenant, Dataset.name == parsed.name)
    newest = session.scalars(select(Dataset).where(*mine).order_by(Dataset.version.desc()).limit(1)).one_or_none()
    if newest is None:
        names = list(session.scalars(select(Dataset.name).where(Dataset.tenant == tenant).distinct()))
        raise NotFoundError(
            f"there is no dataset {parsed.name}" + did_you_mean(parsed.name, names),
            hint="See `celora datasets list`; a file is given by its path: ./train.jsonl.",
        )
    if parsed.version is None or parsed.version == newest.version:
        return newest
    found = session.scalars(select(Dataset).where(*mine, Dataset.version == parsed.version)).one_or_none()
    if found is None:
        raise NotFoundError(
            f"dataset {parsed.name} has no version {parsed.version}; its newest is {newest.version}.",
            hint=f"See `celora datasets show {parsed.name} --tenant {tenant}`.",
        )
    return found


def register(
    session: Session,
    *,
    tenant: str,
    name: str,
    sha256: str,
    uri: str,
    size_bytes: int,
    rows: int | None = None,
    file_name: str | None = None,
) -> Dataset:
    """Register a dataset's version under its name: known content keeps its version, other content gets the next one.

    The version is called by the file's name that was given last, since a receipt is read by whoever gave that name.
    """
    at = now(session)
    called = file_name and file_name.encode(errors="replace").decode()  # a file's name may be no text
    tenants = upsert_insert(session, Tenant).values(name=tenant, created_at=at)
    session.execute(tenants.on_conflict_do_nothing(index_elements=["name"]))
    mine = (Dataset.tenant == tenant, Dataset.name == name)
    last = session.scalar(select(func.max(Dataset.version)).where(*mine)) or 0
    version = upsert_insert(session, Dataset).values(
        tenant=tenant,
        name=name,
        version=last + 1,
        sha256=sha256,
        uri=uri,
        size_bytes=size_bytes,
        rows=rows,
        file_name=called,
        created_at=at,
    )
    session.execute(version.on_conflict_do_nothing(index_elements=["tenant", "name", "sha256"]))
    made = session.scalars(select(Dataset).where(*mine, Dataset.sha256 == sha256)).one()
    made.file_name = called or made.file_name
    return made


def of_content(session: Session, tenant: str, sha256: str) -> Dataset | None:
    """Find the version with that content that was registered last, under any name."""
    same = select(Dataset).where(Dataset.tenant == tenant, Dataset.sha256 == sha256)
    return session.scalars(same.order_by(Dataset.id.desc()).limit(1)).one_or_none()


def of_uri(session: Session, tenant: str, uri: str) -> Dataset | None:
    """Find the version at that URI that was registered last."""
    same = select(Dataset).where(Dataset.tenant == tenant, Dataset.uri == uri)
    return session.scalars(same.order_by(Dataset.id.desc()).limit(1)).one_or_none()


def resolve(session: Session, spec: JobSpec) -> tuple[JobSpec, dict[str, Dataset]]:
    """Replace each dataset's name in a spec by the URI of that version; return the new spec and the versions by role.

    The URI of a registered version counts too, so that a job that named the file records the version it used.

    Raises:
        NotFoundError: A name or a version does not exist.
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
    """List every version by name, the newest of each name first, with the number of jobs that used it."""
    jobs = select(JobDataset.dataset_id, func.count().label("jobs")).group_by(JobDataset.dataset_id).subquery()
    wanted = select(Dataset, jobs.c.jobs).outerjoin(jobs, jobs.c.dataset_id == Dataset.id)
    if tenant is not None:
        wanted = wanted.where(Dataset.tenant == tenant)
    if name is not None:
        wanted = wanted.where(Dataset.name == name)
    rows = session.execute(wanted.order_by(Dataset.tenant, Dataset.name, Dataset.version.desc()))
    columns = ("tenant", "name", "version", "rows", "size_bytes", "sha256", "uri", "created_at")
    return [{**{column: getattr(row, column) for column in columns}, "jobs": count or 0} for row, count in rows]


def record_use(session: Session, job_id: str, versions: Mapping[str, Dataset]) -> None:
    """Record the versions that a job uses, by role; a role that is recorded already is not changed."""
    for role, dataset in versions.items():
        use = upsert_insert(session, JobDataset).values(job_id=job_id, role=role, dataset_id=dataset.id)
        session.execute(use.on_conflict_do_nothing(index_elements=["job_id", "role"]))


def jobs_using(session: Session, dataset: Dataset, limit: int = 50) -> list[dict[str, Any]]:
    """List the jobs that used a version, the newest first: id, status, role."""
    pairs = select(Job.id, Job.status, JobDataset.role).join(JobDataset, JobDataset.job_id == Job.id)
    rows = session.execute(
        pairs.where(JobDataset.dataset_id == dataset.id).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    )
    return [{"id": job_id, "status": status.value, "role": role} for job_id, status, role in rows]
