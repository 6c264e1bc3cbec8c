"""Promotes and rolls back champions, writes their aliases, and runs the installation's command after each change.

The alias (``champions/TENANT/NAME.json`` below the artifact root, one small object that is always replaced whole) is
written after the commit by the process that moved the pointer; ``celora.champions`` and the sweep repair it where that
process died.
"""

import json
import logging
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ..errors import CeloraError, NotFoundError, SettingsError, StorageError
from ..models import champions, queries
from ..models.database import Database, get_database
from ..models.scope.scope import Scope
from ..models.tables import Adapter, Job
from ..models.tables.champion import Champion, ChampionEvent
from ..models.tenants.audit import current_actor, record_audit
from ..settings.failpoints import hit
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..workers import messages, queues
from ..workers.celery import EXPIRES_S, app

__all__ = ["current", "promote", "rollback"]

logger = logging.getLogger(__name__)

ALIAS_FORMAT = 1
MARGIN_S = 30.0
"""Seconds that a claim lasts longer than the command."""
KEPT_OUTPUT = 500
NAMED = ("name", "tenant", "kind", "version", "job", "adapter", "before", "reason")
MOST_LETTERS = 10_000
"""Characters of a fact in the environment, since Linux allows 128 KiB a variable; standard input has the whole fact."""


def current(name: str, *, tenant: str = "default") -> dict[str, Any]:
    """Return a champion: ``job``, ``adapter`` (URI), ``version``, ``since``, ``base``, ``metrics`` and more.

    Raises:
        NotFoundError: The name has no champion.
    """
    with get_database().session(Scope.of(tenant)) as session:
        found = champions.get(session, tenant, name)
        return champions.shown(found, session.get_one(Adapter, found.job_id))


def promote(name: str, job_id: str, *, tenant: str = "default", reason: str = "", by: str = "") -> dict[str, Any]:
    """Make a job's adapter champion by hand, without asking the gate; a new name gets its first champion.

    Args:
        name: Name of the champion.
        job_id: Id of a completed job of that tenant.
        tenant: Tenant of the name and of the job.
        reason: Reason for the history.
        by: Person for the history.

    Returns:
        The champion after the change, as ``current`` returns it.

    Raises:
        NotFoundError: There is no such job, or it has no adapter (any more).
        SettingsError: It is the champion already, or another change was quicker.
    """
    champions.check_name(name)
    with get_database().transaction(Scope.of(tenant)) as session:
        job = queries.get_job(session, job_id)
        before = champions.find(session, tenant, name)
        about = {"name": name, "kind": champions.BY_HAND, "reason": reason or "by hand", "by": by}
        moved = _move(session, job, before, **about)
    spread(name, tenant)
    return moved


def rollback(name: str, *, tenant: str = "default", reason: str = "", by: str = "") -> dict[str, Any]:
    """Return a name to the champion before the present one; two calls go two back.

    Returns:
        The champion after the change, as ``current`` returns it.

    Raises:
        NotFoundError: The name has no champion, or the earlier champion's adapter is gone.
        SettingsError: There was none before, or another change was quicker.
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        now_ = champions.get(session, tenant, name)
        earlier = champions.previous(session, now_)
        if earlier is None:
            raise SettingsError(
                f"champion {name} has no earlier adapter to go back to; {now_.job_id} was the first.",
                hint=f"Choose one by hand: celora champion promote {name} ID.",
            )
        job = queries.get_job(session, earlier)
        about = {"kind": champions.ROLLED_BACK, "reason": reason or f"back from {now_.job_id}", "by": by}
        moved = _move(session, job, now_, name=name, **about)
    spread(name, tenant)
    return moved


def _move(session: Session, job: Job, before: Champion | None, *, name: str, **about: Any) -> dict[str, Any]:
    adapter = session.get(Adapter, job.id)
    if adapter is None:
        raise NotFoundError(
            f"job {job.id} is {job.status} and has published no adapter.", hint=f"See `celora status {job.id}`."
        )
    if before is not None and before.job_id == job.id:
        raise SettingsError(f"job {job.id} is champion {name} already, since version {before.version}.")
    if not Artifacts(get_settings().artifacts).committed(adapter.uri):
        raise NotFoundError(f"the adapter of job {job.id} is gone from {adapter.uri}.", hint="Choose another one.")
    expected = before.version if before is not None else 0
    moved = champions.move(session, tenant=job.tenant, name=name, job_id=job.id, expected=expected, **about)
    if moved is None:
        raise SettingsError(
            f"champion {name} changed in that moment.", hint=f"See `celora champion show {name} --tenant {job.tenant}`."
        )
    found = champions.get(session, job.tenant, name)
    session.flush()
    _audit(session, f"champion.{about['kind']}", found, before)
    return champions.shown(found, adapter)


def _audit(session: Session, action: str, champion: Champion, before: Champion | None) -> None:
    was = None if before is None else {"job": before.job_id}
    after = {"job": champion.job_id, "version": champion.version}
    record_audit(session, current_actor(), action, champion.name, was, after, tenant=champion.tenant)


def spread(name: str, tenant: str) -> None:
    """Write the alias after a committed change, and request the notification; no failure here undoes the change."""
    hit("champion.moved")
    try:
        write_alias(get_database(), get_settings(), tenant, name)
    except CeloraError as error:
        logger.warning("champion %s: its alias is written later (%s)", name, error)

    def send() -> None:
        app.send_task("celora.champions", queue=queues.ENTRY, expires=EXPIRES_S, retry=False, ignore_result=True)

    messages.attempt(send, f"the change of champion {name}")  # a lost message waits for the next round


def alias_uri(artifacts: Artifacts, tenant: str, name: str) -> str:
    """Return the URI of a champion's alias."""
    return artifacts.uri("champions", tenant, f"{name}.json")


def write_alias(database: Database, settings: Settings, tenant: str, name: str) -> dict[str, Any]:
    """Write a champion's alias from its row, and again if the row moved meanwhile; the last writer is never behind."""
    artifacts = Artifacts(settings.artifacts)
    written: dict[str, Any] = {}
    while True:
        wanted = _alias(database, tenant, name)
        if wanted == written:
            return written
        with tempfile.TemporaryDirectory(prefix="celora-alias-") as folder:
            path = Path(folder) / "alias.json"
            path.write_text(json.dumps(wanted, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            artifacts.put_file(path, alias_uri(artifacts, tenant, name))
        written = wanted


def mend(database: Database, settings: Settings) -> int:
    """Write every alias that is missing or differs from its row; return their number."""
    artifacts = Artifacts(settings.artifacts)
    with database.session(Scope.everything) as session:
        names = [(row["tenant"], row["name"]) for row in champions.listed(session)]
    mended = 0
    for tenant, name in names:
        try:
            found: Any = artifacts.read_json(alias_uri(artifacts, tenant, name))
        except StorageError:
            found = None
        if found != _alias(database, tenant, name):
            write_alias(database, settings, tenant, name)
            logger.warning("champion %s of %s: its alias was mended", name, tenant)
            mended += 1
    return mended


def _alias(database: Database, tenant: str, name: str) -> dict[str, Any]:
    with database.session(Scope.everything) as session:
        found = champions.get(session, tenant, name)
        shown = champions.shown(found, session.get_one(Adapter, found.job_id))
    kept = ("name", "tenant", "version", "job", "adapter", "base", "base_revision")
    return {"format": ALIAS_FORMAT, **{key: shown[key] for key in kept}, "since": shown["since"].isoformat()}


def tell(database: Database, settings: Settings) -> int:
    """Notify of each pending change: write the alias, then run the installation's command. Tries each at most thrice.

    Returns:
        The number of changes that were notified.
    """
    with database.session(Scope.everything) as session:
        waiting = champions.pending_notifications(session)
    done = 0
    for event_id in waiting:
        with database.transaction(Scope.everything) as session:
            change = champions.claim_notification(session, event_id, settings.on_promote_s + MARGIN_S)
            if change is None:
                continue
            facts = _facts(session, change)
        hit("champion.claimed")
        fault = _told(database, settings, facts)
        with database.transaction(Scope.everything) as session:
            champions.mark_notified(session, event_id, fault)
        if fault:
            logger.warning("champion %s: version %s could not be told: %s", facts["name"], facts["version"], fault)
        done += not fault
    return done


def _told(database: Database, settings: Settings, facts: dict[str, Any]) -> str | None:
    try:
        write_alias(database, settings, facts["tenant"], facts["name"])
    except CeloraError as error:
        return str(error)
    return run_command(settings.on_promote, facts, settings.on_promote_s) if settings.on_promote else None


def _facts(session: Session, change: ChampionEvent) -> dict[str, Any]:
    """Collect the facts for the command."""
    adapter = session.get(Adapter, change.job_id)
    names = ("name", "tenant", "kind", "version", "before", "reason", "by")
    return {
        **{name: getattr(change, name) for name in names},
        "job": change.job_id,
        "adapter": adapter.uri if adapter else None,
        "at": change.at.isoformat(),
    }


def run_command(command: list[str], facts: dict[str, Any], limit_s: float) -> str | None:
    """Run the installation's command without a shell: JSON on standard input, the main facts in the environment.

    Returns:
        The fault in words; None if the command ended with 0 in time.
    """
    named = {f"CELORA_CHAMPION_{key.upper()}": str(facts[key] or "")[:MOST_LETTERS] for key in NAMED}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **named},
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return f"{command[0]} can't be run: {error.strerror}"
    try:
        said, _ = process.communicate(json.dumps(facts, ensure_ascii=False) + "\n", timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{command[0]} took longer than {limit_s:g} s and was ended"
    if process.returncode:
        return f"{command[0]} ended with {process.returncode}: {' '.join(said.split())[-KEPT_OUTPUT:]}"
    return None
