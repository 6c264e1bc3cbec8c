"""Registers a worker in the record, renews its heartbeat, applies its row, and drains it.

Celery's signals call these functions once the module is imported (the app includes it). A worker that cannot reach the
record refuses to start with a message, since every job would fail on it.
"""

import gc
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from ...errors import CeloraError, SettingsError, UnavailableError
from ...models.database import get_database
from ...models.queue.labels import label_text
from ...models.scope.scope import Scope
from ...models.tables import Worker
from ...models.workers import clear_host_restart, drain, mark_offline, obstacle, record_heartbeat, register
from ...settings.gpus import gpu_catalogue
from ...settings.permissions import protect
from ...settings.settings import get_settings
from .. import gpu_memory, queues
from .. import logging as log_lines
from ..app_checks import require_safe
from ..celery import app
from ..dropped_messages import DroppedMessages
from ..gpu import device
from ..gpu_option import is_special, pinned_device
from ..messages import UNREACHABLE, request_tick
from ..requirements import require_training
from ..signal_files import Markers
from ..stages.resident import place_of, resident_of
from ..trainer import forked, hosts
from ..versions import installed_versions
from . import consumer_watchdog, housekeeping
from .broker_access import require_access
from .cordon import here
from .malformed import be_tolerant
from .record_watch import RecordState, RecordWatch

logger = logging.getLogger(__name__)

RETRY_S = 5.0
GC_THRESHOLDS = (700, 10, 1)
"""Python's own are (700, 10, 10)."""
_registered, _stop, _asked = threading.Event(), threading.Event(), threading.Event()


@setup_logging.connect
def _logging(loglevel: int = logging.INFO, logfile: str | None = None, **_: Any) -> None:
    """Write one line a record, to the log file or to standard error, in place of Celery's own set-up."""
    log_lines.set_up(loglevel, logfile)
    if log_lines.in_json():  # the prints of libraries are no JSON
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
        device_type = pinned[0] if pinned else _unpinned_type(names)
        queues.check(names, types, device_type, worker=str(sender), special=is_special(settings))
        if set(names) - {queues.ENTRY}:
            require_training()
        require_access(app, names)
        database = get_database()
        database.require_schema()
        database.dispose()
    except CeloraError as error:
        sys.exit(f"celora: {error}")
    logger.info("worker %s reads %s", sender, ", ".join(names))


def _refuse_all() -> None:
    """Refuse a worker that was given neither a device nor a queue, since it would read every queue."""
    raise SettingsError(
        "this worker was given neither --gpu nor -Q and would read every queue.",
        hint="Start it with --gpu 0, or with -Q celora or -Q prep; `celora node` starts all that a machine needs.",
    )


def _unpinned_type(names: list[str]) -> str | None:
    """Return the type of device 0, where a GPU queue is read without --gpu; None where no GPU queue is read."""
    wanted = any(queues.gpu_type_of(name) for name in names)
    return device(0, gpu_catalogue(get_settings().gpus)).gpu_type if wanted else None


@celeryd_init.connect
def _fresh(sender: str, instance: Any, **_: Any) -> None:
    """Refuse an unsafe app and name the process; Celery calls this function first."""
    try:
        require_safe(app)
    except CeloraError as error:
        sys.exit(f"celora: {error}")
    protect(get_settings())
    log_lines.name_process(str(sender))
    if log_lines.in_json():
        log_lines.set_up()  # Celery sets its log up later, and warns before
        instance.quiet = True  # the banner is no JSON
    be_tolerant(str(sender))
    _stop.clear()


@worker_process_init.connect
def _child(**_: Any) -> None:
    """Drop the parent's connections in a forked child, and keep its garbage small.

    Python collects its oldest generation only when a quarter of the known objects is new. A child inherits some 170,000
    objects that live as long as it does. Without them a full collection is cheap, and the child makes one after
    14,000 new objects in place of 70,000.
    """
    hosts.adopt(os.getppid())
    get_database().dispose()
    gc.freeze()
    gc.collect()  # counts the objects anew, without the frozen ones
    gc.set_threshold(*GC_THRESHOLDS)


@worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    """End the process that forks this child's trainers, so that nothing of a worker is left when it has ended."""
    forked.stop()


@worker_ready.connect
def _register(sender: Any, **_: Any) -> None:
    """Start the heartbeat and the watchdogs; none of them waits for an unreachable database."""
    facts = _facts(sender)
    here.attach(sender, facts["queues"])
    _count_deaths(sender)
    threading.Thread(target=_keep_heartbeat, args=(str(sender.hostname), facts), name="heartbeat", daemon=True).start()
    housekeeping.watch(_stop)
    consumer_watchdog.watch(sender.app, facts["queues"], get_settings().deaf_after_s, _stop)


@worker_shutting_down.connect
def _drain(sender: str, **_: Any) -> None:
    """Drain at SIGTERM: the child sees the signal file, its trainer checkpoints, the job returns and no attempt counts.

    The worker's row is marked first, so that the returned job is not sent to this worker again. A thread marks it,
    because this function runs inside a signal handler.
    """
    if not _registered.is_set():
        return
    marking = threading.Thread(target=_mark_draining, args=(str(sender),), name="draining", daemon=True)
    marking.start()
    marking.join(timeout=2)
    markers = Markers(get_settings().home / "run")
    markers.set(markers.drain(os.getpid()))


def _mark_draining(worker_id: str) -> None:
    try:
        with get_database().transaction(Scope.everything) as session:
            drain(session, worker_id)
    except (SQLAlchemyError, UnavailableError) as error:
        logger.warning("the record could not be told that this worker drains (%s)", error)


@worker_shutdown.connect
def _leave(sender: Any, **_: Any) -> None:
    _stop.set()
    here.wake()
    _release_messages(sender)
    settings = get_settings()
    if _hosts_trainers():
        hosts.end(place_of(settings), hosts.LEAVE_S)
    markers = Markers(settings.home / "run")
    markers.clear(markers.drain(os.getpid()))
    if not _registered.is_set():
        return  # the worker was refused before it registered
    try:
        with get_database().transaction(Scope.everything) as session:
            mark_offline(session, str(sender.hostname))
    except (SQLAlchemyError, UnavailableError) as error:
        logger.warning("the record could not be told that this worker leaves (%s)", error)


def _keep_heartbeat(worker_id: str, facts: dict[str, Any]) -> None:
    """Register, then renew the heartbeat; register again where the record lost the row (after a restore, say)."""
    pause_s, heartbeat_s = 0.0, get_settings().heartbeat_s
    watch = RecordWatch(get_database().url)
    while not here.wait(pause_s, _stop):
        pause_s = heartbeat_s
        if not _record_is_ours(watch):
            continue
        resident = resident_of(get_settings()) if _hosts_trainers() else None
        held = gpu_memory.held_by_others(
            facts["device_uuid"] or "",
            busy=bool(len(state.active_requests)),
            host=hosts.process_of(place_of(get_settings())) if resident else None,
            host_bytes=resident.memory_bytes if resident else 0,
        )
        try:
            with get_database().transaction(Scope.everything) as session:
                known = None
                if _registered.is_set():
                    known = record_heartbeat(session, worker_id, foreign_bytes=held, resident=resident)
                row = known or register(session, worker_id, **facts)
        except (SQLAlchemyError, UnavailableError) as error:
            logger.warning("the record cannot be reached (%s); trying again", error)
            pause_s = min(heartbeat_s, RETRY_S)
            continue
        was_paused = here.paused
        _apply(row)
        if known is None or (was_paused and not here.paused):
            _registered.set()
            request_tick()


def _record_is_ours(watch: RecordWatch) -> bool:
    """Pause if the record's file is gone; exit, so that the worker is restarted, if another file is in its place."""
    state_of_record = watch.state()
    if state_of_record is RecordState.SAME:
        return True
    if state_of_record is RecordState.GONE:
        here.apply(f"the record {watch.path} is gone")
    elif not _asked.is_set():
        _asked.set()
        logger.error(
            "the record %s was replaced by another file; this worker leaves with exit code %d and has to be started "
            "again", watch.path, consumer_watchdog.EXIT_CODE,
        )  # fmt: skip
        markers = Markers(get_settings().home / "run")
        markers.set(markers.drain(os.getpid()))  # its job is returned in the old file, which does no harm
        state.should_stop = consumer_watchdog.EXIT_CODE
    return False


def _apply(row: Worker) -> None:
    """Apply the worker's row: exit if a drain was requested, else pause or resume consumption."""
    if row.status == "draining":
        return
    if row.drain_asked and not _asked.is_set():
        _asked.set()
        markers = Markers(get_settings().home / "run")
        markers.set(markers.left(os.getpid()))
        logger.warning("it was asked to drain, and leaves")
        os.kill(os.getpid(), signal.SIGTERM)
        return
    if row.host_restart_asked:
        _restart_host(row.id)
    here.apply(obstacle(row, get_settings().foreign_memory_bytes))


def _restart_host(worker_id: str) -> None:
    """End the trainer host, as an operator asked; its runs return their jobs, and the next run starts another host."""
    settings = get_settings()
    ended = hosts.end(place_of(settings))
    logger.warning("it was asked to restart its trainer host%s", "" if ended else ", and has none")
    try:
        with get_database().transaction(Scope.everything) as session:
            clear_host_restart(session, worker_id)
    except (SQLAlchemyError, UnavailableError) as error:
        logger.warning("the record cannot be reached (%s); the restart is done again", error)


def _hosts_trainers() -> bool:
    """Return whether this worker keeps a trainer host."""
    pinned = pinned_device()
    return pinned is not None and get_settings().hosts_trainers(cuda=bool(pinned[2]))


def _count_deaths(sender: Any) -> None:
    """Count the messages that a predecessor of this worker had in hand when it died."""
    found = _dropped(sender, lambda dropped: dropped.count_deaths())
    if found:
        logger.warning("the last worker of this name died with these messages in hand: %s", ", ".join(found))


def _release_messages(sender: Any) -> None:
    _dropped(sender, lambda dropped: dropped.release_own())


def _dropped(sender: Any, use: Callable[[DroppedMessages], list[str] | None]) -> list[str] | None:
    try:
        with sender.app.connection_for_write() as connection, connection.channel().conn_or_acquire() as client:
            return use(DroppedMessages(client, str(sender.hostname)))
    except UNREACHABLE as error:
        logger.info("the messages in hand are not known (%s)", error)
        return None


def _facts(sender: Any) -> dict[str, Any]:
    names = sorted(str(name) for name in sender.app.amqp.queues.consume_from)
    pinned = pinned_device()
    gpu_types = [gpu_type for name in names if (gpu_type := queues.gpu_type_of(name))]
    kind = "gpu" if gpu_types else "prep" if queues.PREP in names else "control"
    settings = get_settings()
    return {
        "host": platform.node(),
        "kind": kind,
        "gpu_type": gpu_types[0] if gpu_types else None,
        "device_index": pinned[1] if pinned else None,
        "device_uuid": pinned[2] if pinned else None,
        "memory_bytes": _gpu_memory(pinned),
        "slots": int(sender.controller.concurrency),
        "pid": os.getpid(),
        "versions": installed_versions(),
        "queues": names,
        "labels": label_text(settings.labels.split(",")) if kind == "gpu" else "",
        "reserved_for": (settings.reserved_for or None) if kind == "gpu" else None,
    }


def _gpu_memory(pinned: tuple[str, int, str] | None) -> int | None:
    if pinned is None:
        return None
    return device(pinned[1], gpu_catalogue(get_settings().gpus)).memory_bytes
