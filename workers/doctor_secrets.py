"""What `celora doctor` finds out about secrets: who may read their files, which ones jobs need, Flower's login.

No finding ever holds a value.
"""

import os
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models.states import Status
from ..models.tables import Job, Schedule
from ..settings.errors import SettingsError
from ..settings.production import require_broker, require_database, require_login, weakness
from ..settings.secrets import FILE, Secrets
from ..settings.settings import Settings, secrets_directory
from .finding import Finding, fail, ok, refused, warn

TRACKERS = {"wandb": "WANDB_API_KEY"}
"""Which secret a tracker of ``report_to`` needs."""
ENVIRONMENT = ("HF_TOKEN", "WANDB_API_KEY")


def secrets(settings: Settings) -> Iterator[Finding]:
    """The files that hold secrets, the names that are set, and Flower's login."""
    yield files(settings.home)
    yield names(settings.home)
    yield profile(settings)
    if find_spec("flower") is not None:
        yield flower(settings.flower_auth, unlocked=os.environ.get("FLOWER_UNAUTHENTICATED_API", ""))


def files(home: Path) -> Finding:
    """Nobody but their owner and group may read them; those of a mounted folder, too."""
    check = "secrets.files"
    kept = [path for name in (FILE, "celora.env", "broker/address") if (path := home / name).exists()]
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
    """Which secrets there are; whether the file can be read at all."""
    set_here = sorted({*Secrets(home).names(), *(name for name in ENVIRONMENT if os.environ.get(name))})
    return ok("secrets.names", f"set: {', '.join(set_here)}" if set_here else "none is set; public bases need none")


def wanted(session: Session, settings: Settings) -> Finding:
    """Whether this machine has the secrets that jobs which are not over, and schedules, need."""
    check = "secrets.needed"
    specs = [*session.execute(select(Job.id, Job.spec).where(Job.status.in_([s for s in Status if not s.final])))]
    specs += [*session.execute(select(Schedule.name, Schedule.spec).where(Schedule.paused.is_(False)))]
    here, needed = Secrets(settings.home), dict[str, list[str]]()
    for name, spec in specs:
        for tracker in _trackers(spec):
            needed.setdefault(TRACKERS[tracker], []).append(str(name))
    missing = {name: by for name, by in needed.items() if here.get(name) is None and not os.environ.get(name)}
    if missing:
        words = "; ".join(f"{name} is needed by {by[0]} ({len(by)} in all)" for name, by in missing.items())
        return fail(check, f"{words} and is not set here", f"Run `celora secret set {next(iter(missing))}`.")
    return ok(check, f"there: {', '.join(needed)}" if needed else "no job needs one")


def flower(login: str, *, unlocked: str = "") -> Finding:
    """Flower's login, and its API."""
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
    """What CELORA_PROFILE=production would refuse to start with."""
    check = "profile"
    if settings.profile != "production":
        return ok(check, f"{settings.profile}: weak passwords are warned of, not refused")
    results = settings.result_backend or settings.broker_url
    try:
        require_broker(settings, settings.broker_url, results)
        require_database(settings)
        if find_spec("flower") is not None:
            require_login(settings, settings.flower_auth)
    except SettingsError as error:
        return refused(check, error)
    return ok(check, "production, and every password will do")


def readable_by_all(path: Path) -> bool:
    """Whether any user of this machine can open a file: its mode and its folder's let everybody in."""
    real = path.resolve()
    if not real.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path.absolute().parent, *real.parents))


def _trackers(spec: dict[str, Any]) -> list[str]:
    report_to: list[str] = spec.get("report_to") or []
    return [name for name in report_to if name in TRACKERS]
