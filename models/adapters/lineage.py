"""Resolves the adapter that a job goes on from or is compared with: a job, one of its checkpoints, a published name.

The job takes base, rank, alpha and target modules from this parent. A field that differs from its default and from the
parent's value is a contradiction, and the job is refused. The record then holds the parent's job id and step, so that a
champion that changes later changes no job.
"""

from dataclasses import dataclass
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import NotFoundError, SettingsError
from ...tuning.protocol import Base
from .. import champions
from ..spec import PARENTS_BASE, JobSpec, stored_spec
from ..states import Status
from ..tables import Adapter, Checkpoint, Job

INHERITED = ("rank", "alpha", "target_modules", "dora", "rslora")
"""Fields of the recipe that shape an adapter's weights."""
FROM_PARENT = (*INHERITED, "base_model", "revision")
"""Fields of a spec that a job takes from its parent."""
THE_BASE = "base"
"""The ``reference`` that is no adapter."""


@dataclass(frozen=True)
class Parent:
    """An adapter that another job uses.

    Attributes:
        name: The job's id, with ``@STEP`` where a checkpoint is meant.
        base: The base of its training.
        spec: The spec of its training.
        uri: The folder with its weights.
    """

    name: str
    base: Base
    spec: JobSpec
    uri: str


def resolve(session: Session, spec: JobSpec) -> JobSpec:
    """Return the spec with its parent's base and shape, and with the parent named by job and step.

    Raises:
        NotFoundError: The tenant has no such job, checkpoint, adapter or champion.
        SettingsError: The parent has no adapter yet, a field contradicts it, or the reference has another base.
    """
    if spec.continue_from is None:
        return _with_reference(session, spec, None)
    parent = find(session, spec.tenant, spec.continue_from, field="continue_from", missing=spec.champion)
    if parent is None:  # the first run of a schedule that goes on from its champion
        if spec.base_model == PARENTS_BASE:
            raise SettingsError(
                f"continue_from: there is no champion {spec.continue_from} yet, and the job names no base.",
                hint="Give base_model too: the first run then begins with the base.",
            )
        return _with_reference(session, spec.model_copy(update={"continue_from": None}), None)
    return _with_reference(session, inherit(spec, parent), parent)


def inherit(spec: JobSpec, parent: Parent) -> JobSpec:
    """Return the spec with what its adapter must share with its parent.

    Raises:
        SettingsError: A field that was set differs from the parent's; the message names each.
    """
    told = [
        f"{name} {_shown(getattr(spec, name))} is not {_shown(getattr(parent.spec, name))}"
        for name in INHERITED
        if getattr(spec, name) not in (JobSpec.model_fields[name].default, getattr(parent.spec, name))
    ]
    if spec.base_model not in (PARENTS_BASE, parent.spec.base_model, parent.base.name):
        told.insert(0, f"base_model {spec.base_model} is not {parent.spec.base_model}")
    if told:
        raise SettingsError(
            f"continue_from: the job contradicts {parent.name}, whose adapter it trains on: {'; '.join(told)}.",
            hint="Leave these fields away: they come from the parent.",
        )
    revision = parent.base.revision if parent.base.kind == "hub" else parent.spec.revision
    if spec.revision not in (None, parent.spec.revision, revision):
        raise SettingsError(
            f"continue_from: revision {spec.revision} is not {revision}, on which {parent.name} was trained.",
            hint="Leave revision away: it comes from the parent.",
        )
    shape = {name: getattr(parent.spec, name) for name in INHERITED}
    return spec.model_copy(
        update={**shape, "base_model": parent.spec.base_model, "revision": revision, "continue_from": parent.name}
    )


def find(session: Session, tenant: str, name: str, *, field: str, missing: str | None = None) -> Parent | None:
    """Find an adapter of a tenant.

    Args:
        session: An open session.
        tenant: The tenant; the adapters of others do not exist for it.
        name: JOB, JOB@STEP, or the name of a champion or of an adapter.
        field: The field that names it, for errors.
        missing: A champion's name that may not exist yet; None is then returned.

    Raises:
        NotFoundError: The tenant has no such adapter.
        SettingsError: The job has no adapter yet.
    """
    word, _, step = name.partition("@")
    job = _job(session, tenant, word)
    if job is None and word == missing:
        return None
    if job is None:
        raise NotFoundError(
            f"{field}: the tenant {tenant} has no job, adapter or champion {word}.",
            hint="See `celora list` and `celora adapters`.",
        )
    uri = _checkpoint(session, job, int(step)) if step else job.adapter_uri
    if uri is None or job.base is None or (not step and job.status is not Status.COMPLETED):
        missing_part = f"no checkpoint of step {step}" if step else f"no adapter: it is {job.status}"
        raise SettingsError(
            f"{field}: job {job.id} has {missing_part}.",
            hint=f"See `celora status {job.id}`, and name a completed job, or a step whose checkpoint is kept.",
        )
    known = stored_spec(job.spec)
    return Parent(f"{job.id}@{step}" if step else job.id, Base.model_validate(job.base), known, uri)


def _job(session: Session, tenant: str, word: str) -> Job | None:
    """Find the job of an id, of a champion, or of the newest adapter of a name."""
    mine = Job.tenant == tenant
    found = session.scalars(select(Job).where(Job.id == word, mine)).one_or_none()
    if found is not None:
        return found
    champion = champions.find(session, tenant, word)
    named = select(Adapter.id).where(Adapter.name == word, Adapter.tenant == tenant).order_by(Adapter.created_at.desc())
    job_id = champion.job_id if champion is not None else session.scalars(named.limit(1)).one_or_none()
    return session.scalars(select(Job).where(Job.id == job_id, mine)).one_or_none() if job_id else None


def _checkpoint(session: Session, job: Job, step: int) -> str | None:
    found = select(Checkpoint.uri).where(Checkpoint.job_id == job.id, Checkpoint.step == step)
    return session.scalars(found.order_by(Checkpoint.attempt.desc()).limit(1)).one_or_none()


def _with_reference(session: Session, spec: JobSpec, parent: Parent | None) -> JobSpec:
    """Name the reference by job and step; refuse one of another base.

    The base of a job without a parent is only known when its data is prepared; its reference is checked there.
    """
    if spec.reference in (None, THE_BASE):
        return spec
    found = find(session, spec.tenant, str(spec.reference), field="reference")
    assert found is not None  # noqa: S101  (no name may be missing)
    theirs = {found.spec.base_model, found.base.name}
    same = found.base.revision == parent.base.revision if parent else spec.base_model in theirs
    if not same:
        raise SettingsError(
            f"reference: {found.name} was trained on {found.base.name}, and this job trains on {spec.base_model}.",
            hint="Name an adapter of the same base, or leave reference away.",
        )
    return spec.model_copy(update={"reference": found.name})


def _shown(value: object) -> str:
    return ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
