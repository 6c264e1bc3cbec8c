"""Unloads the adapters of deleted models from the serving server, so that nobody is answered by them there any more.

The server's own list is compared with the record. So the next sweep meets a server that was away, and an adapter that
was loaded by a chat at the moment of the deletion.
"""

import logging
import threading
from collections.abc import Collection

from sqlalchemy import select

from ...errors import RequestError
from ...models.database import Database
from ...models.scope.scope import Scope
from ...models.tables import Adapter
from ...settings.settings import Settings
from .serving_server import ServingServer

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""Seconds that the server has for an answer to a request of this module."""


_comparing = threading.Lock()


def unload_deleted(database: Database, settings: Settings) -> int:
    """Unload every adapter of a deleted model; return their number, 0 where the server does not answer.

    One thread of a process does it at a time, and the others return 0: a server that hangs holds no second thread, and
    the next sweep meets what was deleted meanwhile.
    """
    if not settings.serving_url or not _comparing.acquire(blocking=False):
        return 0
    try:
        return _unload_deleted(database, _server(settings))
    finally:
        _comparing.release()


def _unload_deleted(database: Database, server: ServingServer) -> int:
    loaded = _loaded(server)
    jobs = {_job_of(name) for name in loaded}
    with database.session(Scope.everything) as session:
        gone = set(session.scalars(select(Adapter.id).where(Adapter.id.in_(jobs), Adapter.deleted_at.is_not(None))))
    return _unload(server, [name for name in loaded if _job_of(name) in gone])


def unload_jobs(settings: Settings, job_ids: Collection[str]) -> int:
    """Unload every adapter of some jobs, whose rows are gone; return their number."""
    if not settings.serving_url or not job_ids:
        return 0
    server = _server(settings)
    return _unload(server, [name for name in _loaded(server) if _job_of(name) in job_ids])


def _server(settings: Settings) -> ServingServer:
    return ServingServer(settings.serving_url, settings.serving_api_key, read_s=ANSWER_S)


def _job_of(name: str) -> str:
    """Return the job of an adapter's name there; a checkpoint's has its step behind ``@``."""
    return name.partition("@")[0]


def _loaded(server: ServingServer) -> list[str]:
    try:
        return server.adapters()
    except RequestError:  # its cause is in the log
        return []


def _unload(server: ServingServer, names: Collection[str]) -> int:
    done = 0
    for name in names:
        try:
            server.unload(name)
        except RequestError:  # the same; the next sweep tries again
            continue
        logger.info("the adapter %s was unloaded from the serving server: its model is deleted", name)
        done += 1
    return done
