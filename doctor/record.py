"""Checks the record for `celora doctor`: connection, tables, clock, and the workers that registered in it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from ..errors import CeloraError, SettingsError
from ..models import queries
from ..models.database import Database, now
from ..models.jobs import metrics
from ..models.scope.scope import Scope
from ..settings.settings import Settings
from ..workers.queues import ENTRY, PREP
from .finding import Finding, Level, fail, guarded, judged, ok, refused, warn
from .notifications import notifications
from .secrets import wanted
from .trainer_hosts import trainer_hosts

ASKEW_S, WRONG_S = 2.0, 120.0
LEAST_SILENCE_S = 60.0
EXACT = ("torch", "transformers", "peft", "trl", "bitsandbytes")
"""Libraries that two workers must have in the same version for a job that moves between them to go on exactly."""
START = "Start them: `celora up` on one machine, `celora node` on a GPU machine."


@dataclass(frozen=True, kw_only=True)
class Roll:
    """The registered workers and the waiting jobs at one moment.

    Attributes:
        settings: Settings of the installation.
        at: Time of the record's clock.
        workers: Rows of ``queries.workers``.
        queues: Rows of ``queries.queues``.
        reaper_age_s: Seconds since the last run of a reaper; None if there was none.
    """

    settings: Settings
    at: datetime
    workers: list[dict[str, Any]]
    queues: list[dict[str, Any]]
    reaper_age_s: float | None

    @property
    def online(self) -> list[dict[str, Any]]:
        """The workers that read queues and are not marked offline; a job in the foreground is no worker."""
        return [row for row in self.workers if row["status"] != "offline" and row["kind"] != "job"]

    @property
    def silent(self) -> list[str]:
        """The ids of the online workers without a recent heartbeat."""
        patience = timedelta(seconds=max(LEAST_SILENCE_S, 3 * self.settings.heartbeat_s))
        return [row["id"] for row in self.online if row["last_seen_at"] < self.at - patience]

    @property
    def alive(self) -> list[dict[str, Any]]:
        """The online workers with a recent heartbeat."""
        return [row for row in self.online if row["id"] not in self.silent]


def record(settings: Settings) -> Iterator[Finding]:
    """Check the record's connection, tables and clock, the secrets that jobs need, the receivers, and the workers."""
    try:
        database = Database(settings.database)
    except CeloraError as error:
        yield refused("record", error)
        return
    if database.url.get_backend_name() == "sqlite" and not Path(str(database.url.database)).exists():
        yield _missing(database, settings)
        return
    try:
        yield from _of(database, settings)
    except CeloraError as error:
        yield refused("record", error)
    finally:
        database.dispose()


def _missing(database: Database, settings: Settings) -> Finding:
    if (settings.home / "celora.env").exists():
        fix = "Put the file back, the workers take it up; or stop `celora up` and start it, to begin a new record."
        return fail("record", f"{database.shown} is gone while an installation runs here", fix)
    return warn("record", f"there is none at {database.shown} yet", "It is made by `celora up` or `celora migrate`.")


def _of(database: Database, settings: Settings) -> Iterator[Finding]:
    with database.session(Scope.everything) as session:
        yield ok("record", f"{database.shown} answers ({_server(session)})")
        yield _clock(session)
    try:
        database.require_schema()
    except SettingsError as error:
        yield refused("record.tables", error)
        return
    yield ok("record.tables", "of this celora's version")
    with database.session(Scope.everything) as session:
        yield guarded("secrets.needed", partial(wanted, session, settings))
        yield from notifications(session, settings)
        roll = Roll(
            settings=settings,
            at=now(session),
            workers=queries.workers(session, settings.foreign_memory_bytes),
            queues=queries.queues(session),
            reaper_age_s=metrics.reaper_age_s(session),
        )
    yield from judged(roll, registered, versions, libraries, standing, queues, reaper, machines)
    yield from trainer_hosts(settings, roll.alive)


def registered(roll: Roll) -> Finding:
    """Check that there are workers, and that each sends heartbeats."""
    check = "workers"
    if not roll.online:
        return warn(check, "none is online", START)
    if roll.silent:
        return fail(
            check,
            f"{', '.join(roll.silent)} gave no sign of life lately",
            "Look whether that process lives and reaches the record; its log says more.",
        )
    kinds = [str(row["kind"]) for row in roll.online]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return ok(check, f"{len(kinds)} online ({counted})")


def versions(roll: Roll) -> Finding:
    """Check that every worker runs this machine's version of celora."""
    check, here = "workers.version", metadata.version("celora")
    other = {row["id"]: row["versions"].get("celora", here) for row in roll.alive}
    apart = [f"{name} runs {version}" for name, version in other.items() if version != here]
    if apart:
        fix = f"Finish the upgrade: install celora {here} there and restart these workers."
        return warn(check, f"celora {here} is here; {', '.join(apart)}", fix)
    return ok(check, f"celora {here} everywhere")


def libraries(roll: Roll) -> Finding:
    """Check that the workers of one GPU type have the same libraries."""
    check = "workers.libraries"
    apart: list[str] = []
    for gpu_type in sorted({str(row["gpu_type"]) for row in roll.alive if row["gpu_type"]}):
        rows = [row for row in roll.alive if row["gpu_type"] == gpu_type]
        for name in EXACT:
            found = sorted({row["versions"].get(name, "none") for row in rows})
            if len(found) > 1:
                apart.append(f"{name} {' and '.join(found)} on {gpu_type}")
    if apart:
        fix = "Install the versions of constraints.txt on all of them, then restart the workers."
        return warn(check, f"{'; '.join(apart)}: a job that moves between them is not exact to the bit", fix)
    return ok(check, "workers of one GPU type have the same libraries")


def standing(roll: Roll) -> Finding:
    """Check that every worker takes work."""
    check = "workers.standing"
    idle = {row["id"]: row["obstacle"] for row in roll.alive if row["obstacle"]}
    if idle:
        words = "; ".join(f"{name}: {why}" for name, why in idle.items())
        return warn(check, f"takes no work: {words}", f"Once the cause is gone: `celora uncordon {next(iter(idle))}`.")
    return ok(check, "every worker takes work")


def queues(roll: Roll) -> Finding:
    """Check that a worker reads each queue with waiting jobs, and each queue that every job passes."""
    check = "queues"
    read = {name for row in roll.alive for name in row["queues"]}
    waiting = {str(row["queue"]): int(row["waiting"]) for row in roll.queues if row["waiting"]}
    unread = [name for name in (ENTRY, PREP) if name not in read and (roll.online or name in waiting)]
    if unread:
        how = {ENTRY: "`celery -A celora.workers worker -Q celora`", PREP: "`celora node`"}
        found = " and ".join(unread)
        return fail(check, f"no worker reads {found}, which every job passes", f"Start one: {how[unread[0]]}.")
    gpus = {name for name in read if name.startswith("gpu.")}
    late = [name for name in waiting if name not in read and not (name == "gpu.auto" and gpus)]
    if late:
        words = ", ".join(f"{waiting[name]} wait for {name}" for name in late)
        return warn(check, f"{words}, and no worker reads it", "Start a worker of that type: `celora node`.")
    if roll.online and not gpus:
        return warn(check, "no worker trains", "Start one on a GPU machine: `celora node`.")
    return ok(check, f"read: {', '.join(sorted(read))}" if read else "nothing waits")


def reaper(roll: Roll) -> Finding:
    """Check that lost jobs are taken back: beat sends the task, a control worker runs it."""
    check, patience_s = "reaper", max(LEAST_SILENCE_S, 4 * roll.settings.reaper_s)
    if not roll.online:
        return ok(check, "no worker is online, so none can be lost")
    fix = "Start beat (`celery -A celora.workers beat`) and a control worker (`… worker -Q celora`)."
    if roll.reaper_age_s is None:
        young = min(row["registered_at"] for row in roll.online) > roll.at - timedelta(seconds=patience_s)
        return ok(check, "the workers came a moment ago") if young else fail(check, "never looked for lost jobs", fix)
    if roll.reaper_age_s > patience_s:
        return fail(check, f"last looked for lost jobs {roll.reaper_age_s:.0f} s ago", fix)
    return ok(check, f"looked for lost jobs {roll.reaper_age_s:.0f} s ago")


def machines(roll: Roll) -> Finding:
    """Check that several machines can reach the same record and the same artifacts."""
    check, hosts = "machines", sorted({str(row["host"]) for row in roll.online})
    if len(hosts) <= 1:
        return ok(check, hosts[0] if hosts else "no worker is online")
    words = f"{len(hosts)} ({', '.join(hosts)})"
    if roll.settings.database.startswith("sqlite"):
        return fail(check, f"{words} share a SQLite file", "Move the record to PostgreSQL: `celora migrate-data`.")
    if not roll.settings.artifact_root:
        fix = "Set CELORA_ARTIFACT_ROOT to a folder that all of them mount, or to s3://BUCKET/PREFIX."
        return fail(check, f"{words}, and the artifacts lie below this machine's CELORA_HOME", fix)
    return ok(check, words)


def _server(session: Session) -> str:
    if session.get_bind().dialect.name == "sqlite":
        return f"SQLite {session.scalar(text('SELECT sqlite_version()'))}"
    return f"PostgreSQL {session.scalar(text('SHOW server_version'))}"


def _clock(session: Session) -> Finding:
    """Compare this machine's clock with the record's, which decides every lease."""
    if session.get_bind().dialect.name == "sqlite":
        return ok("clock", "the record is a file of this machine, with its clock")
    now(session)  # the first query pays for the connection
    before = time.time()
    there = now(session).timestamp()
    after = time.time()
    return skew(there - (before + after) / 2, (after - before) / 2)


def skew(ahead_s: float, doubt_s: float) -> Finding:
    """Judge the difference between two clocks.

    Args:
        ahead_s: Seconds by which the record's clock is ahead of ours.
        doubt_s: Uncertainty in seconds, half of the time that the answer took.
    """
    check, apart_s = "clock", max(0.0, abs(ahead_s) - doubt_s)
    if apart_s <= ASKEW_S:
        return ok(check, f"{abs(ahead_s):.2f} s from the record's (± {doubt_s:.2f} s)")
    words = f"this machine's clock is {abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} the record's"
    fix = "Set both clocks by NTP: `timedatectl set-ntp true`."
    level = Level.FAIL if apart_s > WRONG_S else Level.WARN
    why = "" if level is Level.WARN else "; times in logs and Flower mislead, signed requests to S3 are refused"
    return Finding(level=level, check=check, found=words + why, fix=fix)
