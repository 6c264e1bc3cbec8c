"""Keeps champions: moves the adapter that a name points to by compare-and-set, and records every move.

Unusual: a move and its event are one transaction with their cause (a job's completion, a person's command), and the
event is also the outbox row of the notification. ``version`` only rises; a move names the version that it expects, 0
where there was no champion, and changes nothing if another move was quicker.
"""

import re
from datetime import timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from ..errors import NotFoundError, SettingsError, did_you_mean
from . import queries
from .database import now
from .events import record_event
from .notifications.notices import Notice, queue_notice
from .promotion_gate import CHAMPION_PATTERN
from .rows import upsert_insert
from .tables import Adapter, Champion, ChampionEvent, Job
from .tables.types import JsonObject

PROMOTED, BY_HAND, ROLLED_BACK, KEPT = "promoted", "promoted_by_hand", "rolled_back", "kept"
MOVES = (PROMOTED, BY_HAND, ROLLED_BACK)


def check_name(name: str) -> str:
    """Return the name if it can be a champion's name.

    Raises:
        SettingsError: It can't be a champion's name.
    """
    if not re.fullmatch(CHAMPION_PATTERN, name):
        raise SettingsError(
            f"{name!r} cannot be a champion's name.",
            hint="Use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit: support-bot.",
        )
    return name


def find(session: Session, tenant: str, name: str) -> Champion | None:
    """Find the champion of that name, as it is in the database now; None while there is none."""
    return session.get(Champion, (tenant, name), populate_existing=True)


def get(session: Session, tenant: str, name: str) -> Champion:
    """Return the champion of that name.

    Raises:
        NotFoundError: There is none; the message names the nearest.
    """
    found = find(session, tenant, name)
    if found is not None:
        return found
    names = list(session.scalars(select(Champion.name).where(Champion.tenant == tenant)))
    raise NotFoundError(
        f"there is no champion {name}" + did_you_mean(name, names),
        hint="See `celora champion list`; a job names what it competes for with --champion NAME.",
    )


def listed(session: Session, *, tenant: str | None = None) -> list[JsonObject]:
    """List every champion: name, tenant, version, since, and its job and adapter."""
    wanted = select(Champion, Adapter).join(Adapter, Adapter.id == Champion.job_id)
    if tenant is not None:
        wanted = wanted.where(Champion.tenant == tenant)
    rows = session.execute(wanted.order_by(Champion.tenant, Champion.name))
    return [shown(champion, adapter) for champion, adapter in rows]


def shown(champion: Champion, adapter: Adapter) -> JsonObject:
    """Return the facts about a champion that people and programs see."""
    return {
        "name": champion.name,
        "tenant": champion.tenant,
        "version": champion.version,
        "since": champion.since,
        "job": champion.job_id,
        "adapter": adapter.uri,
        "adapter_name": adapter.name,
        "base": adapter.base_name,
        "base_revision": adapter.base_revision,
        "metrics": adapter.metrics,
    }


def events_of(session: Session, tenant: str, name: str, limit: int = 100) -> list[ChampionEvent]:
    """List the events of a champion, the newest first; they include challengers that did not pass."""
    mine = (ChampionEvent.tenant == tenant, ChampionEvent.name == name)
    rows = select(ChampionEvent).where(*mine).order_by(ChampionEvent.id.desc()).limit(limit)
    return list(session.scalars(rows))


def resolve(session: Session, words: str, tenant: str = "default") -> tuple[Job, str]:
    """Find the job that words name: a champion's name, else an adapter's name, else a job's id or its beginning.

    Returns:
        The job, and in words how it was found: ``champion support-bot, version 3``, ``adapter …`` or ``job …``.

    Raises:
        NotFoundError: The words name none of them.
    """
    named = find(session, tenant, words)
    if named is not None:
        return session.get_one(Job, named.job_id), f"champion {words}, version {named.version}: job {named.job_id}"
    newest = select(Adapter.id).where(Adapter.tenant == tenant, Adapter.name == words)
    adapter = session.scalar(newest.order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(1))
    if adapter is not None:
        return session.get_one(Job, adapter), f"adapter {words}: job {adapter}"
    try:
        job = queries.find(session, words)  # an id is unique in the installation, so it needs no tenant
    except NotFoundError as error:
        raise NotFoundError(
            f"{words} is no champion of {tenant}, no adapter's name and no job ({error.message.removesuffix('.')}).",
            hint="See `celora champion list`, `celora adapters`, `celora list`.",
        ) from None
    return job, f"job {job.id}"


def move(
    session: Session,
    *,
    tenant: str,
    name: str,
    job_id: str,
    expected: int,
    kind: str,
    reason: str,
    figures: JsonObject | None = None,
    by: str = "",
) -> ChampionEvent | None:
    """Point a name to a job's adapter, if its version is still the expected one; None if another move was first.

    Args:
        session: An open session; the caller commits.
        tenant: The tenant that owns the name.
        name: The champion's name.
        job_id: A job of that tenant with a published adapter.
        expected: The version that was seen; 0 where there was no champion.
        kind: One of ``MOVES``.
        reason: The reason, in words and numbers.
        figures: The numbers.
        by: The person who moved it; empty where no person did.
    """
    at = now(session)
    before = find(session, tenant, name)
    dethroned = before.job_id if before is not None else None
    mine = (Champion.tenant == tenant, Champion.name == name)
    values = {"job_id": job_id, "version": expected + 1, "since": at}
    if expected:
        moved = session.scalar(
            update(Champion)
            .where(*mine, Champion.version == expected)
            .values(**values)
            .returning(Champion.version)
            .execution_options(synchronize_session=False)
        )
    else:
        first = upsert_insert(session, Champion).values(tenant=tenant, name=name, **values)
        moved = session.scalar(
            first.on_conflict_do_nothing(index_elements=["tenant", "name"]).returning(Champion.version)
        )
    if moved is None:
        return None
    what = f"{kind.replace('_', ' ')}: champion {name}, version {moved}: {reason}"
    _record_for_job(session, job_id, kind, what)
    if dethroned and dethroned != job_id:
        _record_for_job(
            session, dethroned, "dethroned", f"no longer champion {name}: {job_id} is, since version {moved}"
        )
    told: JsonObject = {"name": name, "job_id": job_id, "version": moved, "kind": kind, "before": dethroned}
    queue_notice(session, Notice.CHAMPION, tenant, name, facts={**told, "reason": reason})
    about: JsonObject = {"tenant": tenant, "name": name, "job_id": job_id, "reason": reason, "figures": figures}
    return _write(session, **about, kind=kind, version=moved, before=dethroned, by=by, at=at)


def settle(session: Session, job: Job, challenge: JsonObject) -> ChampionEvent | None:
    """Record the result of a job's challenge, and move the champion if it passed; part of the job's completion.

    Args:
        session: An open session.
        job: The job, whose adapter is in the record; the outcome is written into its summary.
        challenge: ``name``, ``expected`` (version), ``promote``, ``reason``, ``figures``, ``against`` (a job or None).

    Returns:
        The promotion; None where the champion stays.
    """
    outcome, moved = dict(challenge), None
    name, reason = str(challenge["name"]), str(challenge["reason"])
    about: JsonObject = {"tenant": job.tenant, "name": name, "job_id": job.id, "reason": reason}
    about["figures"] = challenge.get("figures")
    if challenge["promote"]:
        moved = move(session, **about, expected=int(challenge["expected"]), kind=PROMOTED)
        if moved is None:
            outcome["promote"] = False
            outcome["reason"] = f"it passed ({reason}), but champion {name} changed in that moment"
    if not outcome["promote"]:
        why = str(outcome["reason"])
        _record_for_job(session, job.id, KEPT, f"kept: champion {name} stays as it is: {why}")
        about |= {"reason": why, "version": int(challenge["expected"]), "before": challenge.get("against")}
        at = now(session)
        _write(session, **about, kind=KEPT, at=at, told_at=at)
    if job.summary is not None:
        shown_ = {key: outcome.get(key) for key in ("name", "promote", "reason", "figures", "against", "stale")}
        job.summary = {**job.summary, "champion": shown_}
    session.flush()
    return moved


def previous(session: Session, champion: Champion) -> str | None:
    """Return the job that a roll-back restores: the champion before the present one; None before the first.

    A roll-back itself does not count, so that two in a row go back two champions.
    """
    came = (
        ChampionEvent.tenant == champion.tenant,
        ChampionEvent.name == champion.name,
        ChampionEvent.job_id == champion.job_id,
        ChampionEvent.kind.in_((PROMOTED, BY_HAND)),
    )
    newest = select(ChampionEvent.before).where(*came).order_by(ChampionEvent.id.desc()).limit(1)
    return session.scalar(newest)


def was_ever_champion(session: Session, tenant: str, name: str, job_id: str) -> bool:
    """Return whether a job is or ever was the champion of that name."""
    mine = (ChampionEvent.tenant == tenant, ChampionEvent.name == name, ChampionEvent.job_id == job_id)
    moved = select(ChampionEvent.id).where(*mine, ChampionEvent.kind.in_(MOVES)).limit(1)
    return session.scalar(moved) is not None


def pending_notifications(session: Session, *, again_after: int = 3) -> list[int]:
    """List the changes of champions that have no notification yet and no claim on it, the oldest first."""
    free = or_(ChampionEvent.claimed_until.is_(None), ChampionEvent.claimed_until < now(session))
    open_ = (ChampionEvent.told_at.is_(None), ChampionEvent.attempts < again_after)
    return list(session.scalars(select(ChampionEvent.id).where(*open_, free).order_by(ChampionEvent.id)))


def claim_notification(session: Session, event_id: int, for_s: float) -> ChampionEvent | None:
    """Claim the notification of a change for ``for_s`` seconds; None if it was made or is claimed by another."""
    at = now(session)
    free = or_(ChampionEvent.claimed_until.is_(None), ChampionEvent.claimed_until < at)
    return session.scalars(
        update(ChampionEvent)
        .where(ChampionEvent.id == event_id, ChampionEvent.told_at.is_(None), free)
        .values(claimed_until=at + timedelta(seconds=for_s), attempts=ChampionEvent.attempts + 1)
        .returning(ChampionEvent)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one_or_none()


def mark_notified(session: Session, event_id: int, fault: str | None = None) -> None:
    """Mark a change as notified, or record the fault; after a fault the next try waits until the claim is over."""
    values: JsonObject = {"fault": fault} if fault else {"fault": None, "told_at": now(session)}
    session.execute(
        update(ChampionEvent)
        .where(ChampionEvent.id == event_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _write(session: Session, **columns: Any) -> ChampionEvent:
    row = ChampionEvent(**columns)
    session.add(row)
    session.flush()
    return row


def _record_for_job(session: Session, job_id: str, kind: str, message: str) -> None:
    job = session.get(Job, job_id)
    if job is not None:
        record_event(session, job_id, job.attempt, "info", kind, message, {})
