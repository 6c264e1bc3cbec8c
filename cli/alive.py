"""Defines ``celora alive``, the health check of a container that runs a worker."""

import platform
from datetime import timedelta

from sqlalchemy import select

from ..errors import UnavailableError
from ..models.database import get_database, now
from ..models.scope.scope import Scope
from ..models.tables import Worker
from ..settings.settings import get_settings
from .output import say

LEAST_S = 60.0


def alive() -> None:
    """Say whether this machine's workers gave the record a sign of life lately; exit code 0 only if all did.

    Meant to show a container as healthy or not. Do not kill a worker because of it: training goes on, and is right to,
    while the record cannot be reached.

    Example: `celora alive`
    """
    host, patience_s = platform.node(), max(LEAST_S, 3 * get_settings().heartbeat_s)
    with get_database().session(Scope.everything) as session:
        mine = select(Worker.id, Worker.last_seen_at).where(Worker.host == host, Worker.status != "offline")
        seen = {str(name): at for name, at in session.execute(mine)}
        late = now(session) - timedelta(seconds=patience_s)
    silent = sorted(name for name, at in seen.items() if at < late)
    if not seen or silent:
        what = (
            f"{', '.join(silent)} gave no sign for {patience_s:.0f} s" if silent else f"no worker of {host} is online"
        )
        raise UnavailableError(f"{what}.", hint="Its log says more.")
    say(f"alive: {', '.join(sorted(seen))}")
