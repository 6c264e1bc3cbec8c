"""Decides which model a request names: a listed base, an alias, or a model of the tenant's own.

At the door a base is only what is listed: the allowed bases of the installation, where none are set those of the
catalogue, and the aliases. A pattern never matches a folder, because a tenant could then read any folder that its name
fits.
"""

import fnmatch
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models.database import get_database, now
from ...models.openai.model_ids import PREFIX, name_of, split_checkpoint
from ...models.scope.scope import Scope
from ...models.spec import PARENTS_BASE
from ...models.tables import Adapter, Champion, Checkpoint, Job
from ...models.tenants.audit import current_actor, record_audit
from ...settings import bases
from ...settings.settings import Settings

PATTERN = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The base of a request, the part of the trained model's id that names it, and the adapter to go on from.

    ``continue_from`` is the job of the adapter, with the step of a checkpoint; None to start from the base.
    """

    base: str
    named: str
    continue_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A model that a request may name: a base, or a trained one of the tenant's."""

    id: str
    created_at: float
    owner: str


def choose(session: Session, tenant: str, asked: str, settings: Settings) -> Chosen:
    """Return the base that a request names.

    Raises:
        RequestError: No such model is known to this tenant (404).
    """
    base = settings.model_aliases.get(asked, asked)
    if asked in settings.model_aliases or _is_allowed(base, settings.allowed_bases):
        return Chosen(base=base, named=name_of(asked))
    model, step = split_checkpoint(asked)
    parent = _of_tenant(session, tenant, model) if asked.startswith(PREFIX) else None
    if parent is None or (step is not None and not _has_checkpoint(session, parent.id, step)):
        raise unknown(asked)
    place = parent.id if step is None else f"{parent.id}@{step}"
    return Chosen(base=PARENTS_BASE, named=model.split(":")[1], continue_from=place)


def unknown(asked: str) -> RequestError:
    """Make the refusal of a model that is not there, or is another tenant's."""
    shown = asked if len(asked) <= 100 else asked[:100] + "…"  # noqa: PLR2004  (characters that a sentence can hold)
    return RequestError(
        f"the model {shown} does not exist. GET /v1/models lists those that do.",
        reason="model_not_found",
        param="model",
        status=404,
    )


def base_names(settings: Settings) -> list[str]:
    """List the names of the bases that a request may name: aliases, and every allowed base that is no pattern."""
    allowed = settings.allowed_bases or [base.name for base in bases.CATALOGUE]
    catalogue = [base.name for base in bases.CATALOGUE if _is_allowed(base.name, allowed)]
    literal = [name for name in allowed if not PATTERN & set(name)]
    return list(dict.fromkeys([*settings.model_aliases, *literal, *catalogue]))


def models_of(tenant: str, settings: Settings) -> list[ModelView]:
    """List the models that a tenant's request may name: bases first, then its own, the newest first."""
    with get_database().session(Scope.of(tenant)) as session:
        wanted = select(Adapter.model_id, Adapter.created_at).where(Adapter.tenant == tenant, *_present())
        own = [_own(str(name), at, tenant) for name, at in session.execute(wanted.order_by(Adapter.created_at.desc()))]
    return [*(ModelView(id=name, created_at=0, owner="celora") for name in base_names(settings)), *own]


def find(tenant: str, asked: str, settings: Settings) -> ModelView:
    """Find a base, or a trained model of the tenant's or a checkpoint of one.

    Raises:
        RequestError: There is none (404).
    """
    if asked in base_names(settings) or _is_allowed(asked, settings.allowed_bases):
        return ModelView(id=asked, created_at=0, owner="celora")
    model, step = split_checkpoint(asked)
    with get_database().session(Scope.of(tenant)) as session:
        adapter = _of_tenant(session, tenant, model)
        if adapter is None or (step is not None and not _has_checkpoint(session, adapter.id, step)):
            raise unknown(asked)
        return _own(asked, adapter.created_at, tenant)


def delete(tenant: str, asked: str, settings: Settings) -> None:
    """Delete a trained model; its job and the measurements stay.

    Raises:
        RequestError: There is none (404), it is a base (403), or a champion's name points to it (409).
    """
    if asked in base_names(settings):
        raise RequestError("a base model cannot be deleted.", reason="forbidden", param="model", status=403)
    with get_database().transaction(Scope.of(tenant)) as session:
        adapter = _of_tenant(session, tenant, asked)
        if adapter is None:
            raise unknown(asked)
        of = select(Champion.name).where(Champion.tenant == tenant, Champion.job_id == adapter.id)
        champion = session.scalar(of.limit(1))
        if champion is not None:
            raise RequestError(
                f"the model is the champion {champion}; promote another one first.",
                reason="invalid_state",
                param="model",
                status=409,
                headers={"x-should-retry": "false"},
            )
        adapter.deleted_at = now(session)
        session.get_one(Job, adapter.id).adapter_uri = None
        record_audit(session, current_actor(), "model.delete", asked, {"job": adapter.id}, None, tenant=tenant)


def _is_allowed(name: str, allowed: list[str]) -> bool:
    if not allowed:
        return bases.find(name) is not None
    if name in allowed:
        return True
    listed = any(fnmatch.fnmatch(name, pattern) for pattern in allowed)
    return listed and not name.startswith(PREFIX) and not _is_place(name)


def _is_place(name: str) -> bool:
    """Return whether a name is a folder or file, here or on a worker, rather than a listed name or a hub id."""
    try:
        there = Path(name).exists()
    except OSError:  # it is longer than the name of any file, and so than that of any base
        return True
    return there or Path(name).is_absolute() or name.startswith((".", "~")) or name.endswith(".gguf")


def _of_tenant(session: Session, tenant: str, model: str) -> Adapter | None:
    wanted = select(Adapter).where(Adapter.tenant == tenant, Adapter.model_id == model, *_present())
    return session.scalars(wanted).one_or_none()


def _has_checkpoint(session: Session, job_id: str, step: int) -> bool:
    wanted = select(Checkpoint.step).where(Checkpoint.job_id == job_id, Checkpoint.step == step)
    return session.scalar(wanted.limit(1)) is not None


def _present() -> tuple[ColumnElement[bool], ...]:
    return Adapter.deleted_at.is_(None), Adapter.model_id.is_not(None)


def _own(name: str, at: datetime, tenant: str) -> ModelView:
    return ModelView(id=name, created_at=at.timestamp(), owner=tenant)
