"""Checks secrets for `celora doctor`: the modes of their files, the names that jobs need, Flower's login.

No finding ever holds a value.
"""

import os
import stat
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import SettingsError
from ..models.states import Status
from ..models.tables import Job, Schedule
from ..settings.production import require_broker, require_database, require_login, weakness
from ..settings.secrets import FILE, INSTALLATION, Secrets, secrets_of_job
from ..settings.settings import Settings, secrets_directory
from .finding import Finding, fail, guarded, ok, refused, warn

TRACKERS = {"wandb": "WANDB_API_KEY"}
"""The secret that a tracker of ``report_to`` needs."""
ENVIRONMENT = ("HF_TOKEN", "WANDB_API_KEY")


def secrets(settings: Settings) -> Iterator[Finding]:
    """Check the files that hold secrets, the names that are set, and Flower's login."""
    yield guarded("secrets.files", partial(files, settings.home))
    yield guarded("secrets.names", partial(names, settings.home))
    yield guarded("profile", partial(profile, settings))
    if find_spec("flower") is not None:
        yield flower(settings.flower_auth, unlocked=os.environ.get("FLOWER_UNAUTHENTICATED_API", ""))


def files(home: Path) -> Finding:
    """Check that only owner and group may read the files with secrets, those of a mounted folder included."""
    check = "secrets.files"
    kept = [
        path
        for name in (FILE, "celora.env", "worker.env", "broker/address", "broker/passwords")
        if (path := home / name).exists()
    ]
    toml = home / "celora.toml"
    if toml.exists() and "://" in toml.read_text(encoding="utf-8"):
        kept.append(toml)
    if (folder := secrets_directory()) is not None:
        kept += sorted(path for path in folder.iterdir() if path.is_file())
    readable = [path for path in kept if readable_by_all(path)]
    if readable:
        shown = ", ".join(map(str, readable))
        return fail(check, f"everybody on this machine may read {shown}", f"Run `chmod o-rwx {readable[0]}`.")
    return ok(check, f"{len(kept)} files, none of them for everybody" if kept else "none")


def names(home: Path) -> Finding:
    """List the names of the secrets that are set; raise where the file can't be read."""
    set_here = sorted({*Secrets(home).names(), *(name for name in ENVIRONMENT if os.environ.get(name))})
    return ok("secrets.names", f"set: {', '.join(set_here)}" if set_here else "none is set; public bases need none")


def wanted(session: Session, settings: Settings) -> Finding:
    """Check that this machine has the secrets that unfinished jobs and active schedules need."""
    check = "secrets.needed"
    live = Job.status.in_([status for status in Status if not status.final])
    specs = [*session.execute(select(Job.tenant, Job.id, Job.spec).where(live))]
    specs += [*session.execute(select(Schedule.tenant, Schedule.name, Schedule.spec).where(~Schedule.paused))]
    needed = dict[tuple[str, str], list[str]]()
    for tenant, name, spec in specs:
        for tracker in _trackers(spec):
            needed.setdefault((tenant, TRACKERS[tracker]), []).append(str(name))
    missing = {key: by for key, by in needed.items() if not _is_set(settings, *key)}
    if missing:
        words = "; ".join(f"{name} is needed by {by[0]} ({len(by)} in all)" for (_, name), by in missing.items())
        tenant, name = next(iter(missing))
        option = "" if tenant == INSTALLATION else f" --tenant {tenant}"
        return fail(check, f"{words} and is not set here", f"Run `celora secret set {name}{option}`.")
    return ok(check, f"there: {', '.join({name: 0 for _, name in needed})}" if needed else "no job needs one")


def _is_set(settings: Settings, tenant: str, name: str) -> bool:
    return bool(secrets_of_job(settings.home, tenant, [name], os.environ, shared=settings.shared_secrets))


def flower(login: str, *, unlocked: str = "") -> Finding:
    """Judge Flower's login and the protection of its API."""
    check = "flower.login"
    if unlocked.lower() in ("1", "true", "yes", "on"):
        fix = "Unset FLOWER_UNAUTHENTICATED_API."
        return fail(check, "FLOWER_UNAUTHENTICATED_API is set: whoever reaches Flower may revoke any job", fix)
    if not login:
        return ok(check, "CELORA_FLOWER_AUTH is not set, so each start makes a login up and prints it")
    user, _, password = login.partition(":")
    if why := weakness(password, user):
        fix = "Set CELORA_FLOWER_AUTH to USER:PASSWORD with a long random password."
        return warn(check, f"the user {user} {why}", fix)
    return ok(check, f"set, user {user}")


def profile(settings: Settings) -> Finding:
    """Check that CELORA_PROFILE=production accepts every password."""
    check = "profile"
    if settings.profile != "production":
        return ok(check, f"{settings.profile}: weak passwords are warned of, not refused")
    try:
        require_broker(settings, settings.broker_url, settings.broker, settings.results)
        require_database(settings)
        if find_spec("flower") is not None:
            require_login(settings, settings.flower_auth)
    except SettingsError as error:
        return refused(check, error)
    return ok(check, "production, and every password will do")


def readable_by_all(path: Path) -> bool:
    """Check if every user of this machine can open a file: its mode and those of its folders admit everybody."""
    real = path.resolve()
    if not real.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path.absolute().parent, *real.parents))


def _trackers(spec: dict[str, Any]) -> list[str]:
    report_to: list[str] = spec.get("report_to") or []
    return [name for name in report_to if name in TRACKERS]
