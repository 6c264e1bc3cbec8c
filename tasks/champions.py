"""``celora.champions``: tells whom it concerns that a champion changed; and what a person or a program does to one.

A task of its own beside the tick: the installation's command may take its time, and no job should wait for that. The
alias (``champions/TENANT/NAME.json`` below the artifact root, one small object that is always replaced whole) is
written by whoever moved the pointer, after the commit; this task and the sweep mend it where that one died.
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

from ..models import champions, history
from ..models.champion_tables import Champion, ChampionEvent
from ..models.database import Database, get_database
from ..models.tables import Adapter, Job
from ..settings.errors import CeloraError, NotFoundError, SettingsError, StorageError
from ..settings.failpoints import hit
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..workers import queues, sending
from ..workers.celery import EXPIRES_S, app
from .base import task

logger = logging.getLogger(__name__)

ALIAS_FORMAT = 1
MARGIN_S = 30.0
"""How much longer than the command a claim holds."""
KEPT_OUTPUT = 500


@task("champions", ignore_result=True, send_events=False)
def tell_changes(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Tell every change that was not told yet."""
    tell(get_database(), get_settings())


def current(name: str, *, tenant: str = "default") -> dict[str, Any]:
    """A champion as it is now: ``job``, ``adapter`` (URI), ``version``, ``since``, ``base``, ``metrics`` and more.

    Raises:
        NotFoundError: Nobody is champion under that name.
    """
    with get_database().session() as session:
        found = champions.get(session, tenant, name)
        return champions.shown(found, session.get_one(Adapter, found.job_id))


def promote(name: str, job_id: str, *, tenant: str = "default", reason: str = "", by: str = "") -> dict[str, Any]:
    """Make a job's adapter champion by hand, whatever a gate says; a name that is new gets its first champion.

    Args:
        name: Of the champion.
        job_id: A completed job of that tenant, or the beginning of its id.
        tenant: Whose name it is.
        reason: Why; for the history.
        by: Who.

    Returns:
        The champion as it is now.

    Raises:
        NotFoundError: There is no such job, or it has no adapter (any more).
        SettingsError: It is the champion already, or another change was quicker.
    """
    champions.check_name(name)
    with get_database().transaction() as session:
        job = history.find(session, job_id, tenant)
        before = champions.find(session, tenant, name)
        about = {"name": name, "kind": champions.BY_HAND, "reason": reason or "by hand", "by": by}
        moved = _move(session, job, before, **about)
    spread(name, tenant)
    return moved


def rollback(name: str, *, tenant: str = "default", reason: str = "", by: str = "") -> dict[str, Any]:
    """Give a name back to the champion before the present one; twice goes back two.

    Returns:
        The champion as it is now.

    Raises:
        NotFoundError: Nobody is champion under that name, or the earlier one's adapter is gone.
        SettingsError: There was none before, or another change was quicker.
    """
    with get_database().transaction() as session:
        now_ = champions.get(session, tenant, name)
        earlier = champions.previous(session, now_)
        if earlier is None:
            raise SettingsError(
                f"champion {name} has no earlier adapter to go back to; {now_.job_id} was the first.",
                hint=f"Choose one by hand: celora champion promote {name} ID.",
            )
        job = history.find(session, earlier, tenant)
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
        raise SettingsError(f"champion {name} changed in that moment.", hint=f"See `celora champion show {name}`.")
    found = champions.get(session, job.tenant, name)
    session.flush()
    return champions.shown(found, adapter)


def spread(name: str, tenant: str) -> None:
    """After a move is committed: write the alias, and have the rest told; neither failing undoes the move."""
    hit("champion.moved")
    try:
        write_alias(get_database(), get_settings(), tenant, name)
    except CeloraError as error:
        logger.warning("champion %s: its alias is written later (%s)", name, error)

    def send() -> None:
        app.send_task("celora.champions", queue=queues.ENTRY, expires=EXPIRES_S, retry=False, ignore_result=True)

    sending.attempt(send, f"the change of champion {name}")  # unheard, it is told at the next round


def alias_uri(artifacts: Artifacts, tenant: str, name: str) -> str:
    """Where a champion's alias lies."""
    return artifacts.uri("champions", tenant, f"{name}.json")


def write_alias(database: Database, settings: Settings, tenant: str, name: str) -> dict[str, Any]:
    """Write a champion's alias as its row is, and again if the row moved meanwhile; the last writer is never behind."""
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
    """Write every alias anew that is missing or does not say what its row says; returns how many."""
    artifacts = Artifacts(settings.artifacts)
    with database.session() as session:
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
    with database.session() as session:
        found = champions.get(session, tenant, name)
        shown = champions.shown(found, session.get_one(Adapter, found.job_id))
    kept = ("name", "tenant", "version", "job", "adapter", "base", "base_revision")
    return {"format": ALIAS_FORMAT, **{key: shown[key] for key in kept}, "since": shown["since"].isoformat()}


def tell(database: Database, settings: Settings) -> int:
    """Tell each change that is owed: its alias, then the installation's command. What fails is tried three times.

    Returns:
        How many were told.
    """
    with database.session() as session:
        waiting = champions.owed(session)
    done = 0
    for event_id in waiting:
        with database.transaction() as session:
            change = champions.claim(session, event_id, settings.on_promote_s + MARGIN_S)
            if change is None:
                continue
            facts = _facts(session, change)
        hit("champion.claimed")
        fault = _told(database, settings, facts)
        with database.transaction() as session:
            champions.told(session, event_id, fault)
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
    """What the command is told."""
    adapter = session.get(Adapter, change.job_id)
    names = ("name", "tenant", "kind", "version", "before", "reason", "by")
    return {
        **{name: getattr(change, name) for name in names},
        "job": change.job_id,
        "adapter": adapter.uri if adapter else None,
        "at": change.at.isoformat(),
    }


def run_command(command: list[str], facts: dict[str, Any], limit_s: float) -> str | None:
    """Run the installation's command, no shell in between: JSON on standard input, the main facts in the environment.

    Returns:
        What went wrong; None if it ended with 0 in time.
    """
    named = {f"CELORA_CHAMPION_{key.upper()}": str(facts[key] or "") for key in ("name", "tenant", "kind", "version")}
    named |= {f"CELORA_CHAMPION_{key.upper()}": str(facts[key] or "") for key in ("job", "adapter", "before", "reason")}
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
