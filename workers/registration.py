"""What a worker does beside its tasks: checks its queues, is seen in the record, heeds its row there, and drains.

Registered by Celery's signals when this module is imported (the app includes it). A worker that cannot reach the record
refuses to start and says so, since every job would fail on it.
"""

import logging
import os
import platform
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from ..models import transitions
from ..models.database import get_database
from ..models.registry import obstacle
from ..models.tables import Worker
from ..settings.errors import CeloraError, SettingsError, UnavailableError
from ..settings.gpus import gpu_catalogue
from ..settings.settings import get_settings
from . import foreign, hearing, housekeeping, log_lines, queues
from .carry import poke
from .celery import app
from .gpu import device
from .markers import Markers
from .options import pinned_device
from .parts import require_training
from .safety import require_safe
from .standing import here
from .unfit import be_tolerant

logger = logging.getLogger(__name__)

REPORTED = ("celora", "celery", "kombu", "torch", "transformers", "peft", "trl", "bitsandbytes")
RETRY_S = 5.0
_registered, _stop, _asked = threading.Event(), threading.Event(), threading.Event()


@setup_logging.connect
def _logging(loglevel: int = logging.INFO, logfile: str | None = None, **_: Any) -> None:
    """One line a record, to the log file or standard error; Celery's own set-up stays out."""
    log_lines.set_up(loglevel, logfile)
    if log_lines.in_json():  # what libraries print would be no JSON
        app.log.redirect_stdouts_to_logger(logging.getLogger("celora.printed"), logging.INFO)


@celeryd_after_setup.connect
def _check(sender: str, instance: Any, **_: Any) -> None:
    """Refuse wrong queues and an unreachable or older record before anything is consumed."""
    names = [str(name) for name in instance.app.amqp.queues.consume_from]
    try:
        settings = get_settings()
        types = gpu_catalogue(settings.gpus)
        if set(names) == {queue.name for queue in queues.declared(types)}:
            _refuse_all()
        pinned = pinned_device()
        queues.check(names, types, pinned[0] if pinned else _unpinned_type(names))
        if set(names) - {queues.ENTRY}:
            require_training()
        database = get_database()
        database.require_schema()
        database.dispose()
    except CeloraError as error:
        sys.exit(f"celora: {error}")
    logger.info("worker %s reads %s", sender, ", ".join(names))


def _refuse_all() -> None:
    """A worker that was told neither a device nor a queue would read them all."""
    raise SettingsError(
        "this worker was given neither --gpu nor -Q and would read every queue.",
        hint="Start it with --gpu 0, or with -Q celora or -Q prep; `celora node` starts all that a machine needs.",
    )


def _unpinned_type(names: list[str]) -> str | None:
    """The type of device 0, where a GPU queue is read without --gpu."""
    wanted = any(queues.gpu_type_of(name) for name in names)
    return device(0, gpu_catalogue(get_settings().gpus)).gpu_type if wanted else None


@celeryd_init.connect
def _fresh(sender: str, instance: Any, **_: Any) -> None:
    """The very first of a worker: refuse an unsafe app, and learn this worker's name."""
    try:
        require_safe(app)
    except CeloraError as error:
        sys.exit(f"celora: {error}")
    log_lines.name_process(str(sender))
    if log_lines.in_json():
        log_lines.set_up()  # Celery does it later, and warns before
        instance.quiet = True  # the banner is no JSON
    be_tolerant()
    _stop.clear()


@worker_process_init.connect
def _child(**_: Any) -> None:
    """A forked child must not use its parent's connections."""
    get_database().dispose()


@worker_ready.connect
def _register(sender: Any, **_: Any) -> None:
    """Be seen in the record from now on, and hear; neither waits for a database that is away just now."""
    facts = _facts(sender)
    here.begin(sender, facts["queues"])  # whether it stands back on purpose, which is no deafness: here.stands_back
    threading.Thread(target=_be_seen, args=(str(sender.hostname), facts), name="be-seen", daemon=True).start()
    housekeeping.watch(_stop)
    hearing.watch(sender.app, facts["queues"], get_settings().deaf_after_s, _stop)


@worker_shutting_down.connect
def _drain(sender: str, **_: Any) -> None:
    """SIGTERM: the child sees the marker, its trainer checkpoints, the job goes back without paying an attempt.

    The record is told first, so that the job that comes back is not sent to this very worker again; on a thread,
    because this runs inside a signal handler.
    """
    if not _registered.is_set():
        return
    teller = threading.Thread(target=_say_draining, args=(str(sender),), name="draining", daemon=True)
    teller.start()
    teller.join(timeout=2)
    markers = Markers(get_settings().home / "run")
    markers.set(markers.drain(os.getpid()))


def _say_draining(worker_id: str) -> None:
    try:
        with get_database().transaction() as session:
            transitions.drain(session, worker_id)
    except (SQLAlchemyError, UnavailableError) as error:
        logger.warning("the record could not be told that this worker drains (%s)", error)


@worker_shutdown.connect
def _leave(sender: Any, **_: Any) -> None:
    _stop.set()
    here.look()
    markers = Markers(get_settings().home / "run")
    markers.clear(markers.drain(os.getpid()))
    if not _registered.is_set():
        return  # it was refused before it began
    try:
        with get_database().transaction() as session:
            transitions.gone(session, str(sender.hostname))
    except (SQLAlchemyError, UnavailableError) as error:
        logger.warning("the record could not be told that this worker leaves (%s)", error)


def _be_seen(worker_id: str, facts: dict[str, Any]) -> None:
    """Register, then give signs of life; a record that lost the worker's row (restored, say) gets it again."""
    pause_s, heartbeat_s = 0.0, get_settings().heartbeat_s
    while not here.rest(pause_s, _stop):
        pause_s = heartbeat_s
        held = foreign.held_by_others(facts["device_uuid"] or "", busy=bool(len(state.active_requests)))
        try:
            with get_database().transaction() as session:
                known = transitions.seen(session, worker_id, foreign_bytes=held) if _registered.is_set() else None
                row = known or transitions.register(session, worker_id, **facts)
        except (SQLAlchemyError, UnavailableError) as error:
            logger.warning("the record cannot be reached (%s); trying again", error)
            pause_s = min(heartbeat_s, RETRY_S)
            continue
        free_again = here.stands_back
        _heed(row)
        if known is None or (free_again and not here.stands_back):
            _registered.set()
            poke()


def _heed(row: Worker) -> None:
    """Do what the record wants of this worker: leave, or read its queues only while nothing stands in its way."""
    if row.status == "draining":
        return
    if row.drain_asked and not _asked.is_set():
        _asked.set()
        markers = Markers(get_settings().home / "run")
        markers.set(markers.left(os.getpid()))
        logger.warning("it was asked to drain, and leaves")
        os.kill(os.getpid(), signal.SIGTERM)
        return
    here.heed(obstacle(row, get_settings().foreign_memory_bytes))


def _facts(sender: Any) -> dict[str, Any]:
    names = sorted(str(name) for name in sender.app.amqp.queues.consume_from)
    pinned = pinned_device()
    gpu_types = [gpu_type for name in names if (gpu_type := queues.gpu_type_of(name))]
    kind = "gpu" if gpu_types else "prep" if queues.PREP in names else "control"
    return {
        "host": platform.node(),
        "kind": kind,
        "gpu_type": gpu_types[0] if gpu_types else None,
        "device_index": pinned[1] if pinned else None,
        "device_uuid": pinned[2] if pinned else None,
        "memory_bytes": _gpu_memory(pinned),
        "slots": int(sender.controller.concurrency),
        "pid": os.getpid(),
        "versions": _versions(),
        "queues": names,
    }


def _gpu_memory(pinned: tuple[str, int, str] | None) -> int | None:
    if pinned is None:
        return None
    return device(pinned[1], gpu_catalogue(get_settings().gpus)).memory_bytes


def _versions() -> dict[str, str]:
    found: dict[str, str] = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an optional part that this machine does without
    return found
