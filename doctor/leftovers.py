"""Finds an orphaned broker that an earlier start left, and a record that was replaced under a running installation."""

from collections.abc import Iterator
from pathlib import Path

from ..settings.settings import Settings
from ..storage.file_lock import is_locked
from ..workers.node import broker_server
from ..workers.node.record_identity import replaced_since_start
from .finding import Finding, warn


def leftovers(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for an orphaned broker and one for a replaced record; no finding where there is neither."""
    runs, home = is_locked(settings.home / "up.lock"), settings.home
    if not runs and is_locked(home / "broker" / broker_server.LOCK):
        yield orphan(home / "broker")
    if runs and replaced_since_start(settings):
        yield replaced(settings.database)


def orphan(folder: Path) -> Finding:
    """Report a broker that runs although no installation does: no worker receives the messages that are sent to it."""
    port = broker_server.read_access(folder).port
    return warn(
        "broker.orphan",
        f"a broker that an earlier `celora up` left still runs (port {port}, files {folder}); what applications send "
        "to it waits until the next start",
        "Run `celora up`, which ends that broker and goes on with its messages.",
    )


def replaced(url: str) -> Finding:
    """Report that the record's file is another one than at the start."""
    return warn(
        "record.replaced",
        f"another file was put in the place of {url.partition('///')[2]} while `celora up` runs; jobs that were "
        "accepted since that copy was made are not in it",
        "Stop `celora up`, put the right file there and start it again; where this one is right, start it again too.",
    )
