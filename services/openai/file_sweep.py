"""Removes the contents of files and trained models that were deleted, once nothing in the record needs them."""

import logging
from datetime import timedelta

from sqlalchemy import select

from ...errors import StorageError, UnavailableError
from ...models.database import Database, now
from ...models.openai import files, job_requests
from ...models.scope.scope import Scope
from ...models.tables import Adapter
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.incoming import remove_abandoned
from ..locks import content_lock, with_lock
from .files import remove_content
from .uploads import sweep_uploads

logger = logging.getLogger(__name__)

SETTLED_S = 3600.0
"""Age of a deletion at which a content may go. A request that read the file before its deletion is over by then, and
the job that it made is in the record."""


def sweep_files(database: Database, settings: Settings) -> int:
    """Remove the contents that nothing needs, and the rest of uploads that died; return the number of both."""
    with database.transaction(Scope.everything) as session:
        files.expire(session)
        job_requests.forget_keys(session)
    with database.session(Scope.everything) as session:
        going = files.removable(session, now(session) - timedelta(seconds=SETTLED_S))
    artifacts = Artifacts(settings.artifacts)
    removed = 0
    for uri in going:
        try:
            removed += with_lock(content_lock(uri), lambda session, uri=uri: remove_content(session, settings, uri))
        except (StorageError, UnavailableError) as error:
            logger.warning("%s could not be removed: %s", uri, error)
    return removed + sweep_uploads(database, artifacts) + remove_abandoned(artifacts)


def sweep_models(database: Database, settings: Settings) -> int:
    """Remove the files of trained models that were deleted; return their number."""
    artifacts, removed = Artifacts(settings.artifacts), 0
    with database.session(Scope.everything) as session:
        before = now(session) - timedelta(seconds=SETTLED_S)
        gone = select(Adapter.id, Adapter.uri).where(Adapter.deleted_at < before, Adapter.uri != "")
        going = session.execute(gone).all()
    for adapter_id, uri in going:
        try:
            artifacts.remove(uri)
        except StorageError as error:
            logger.warning("%s could not be removed: %s", uri, error)
            continue
        with database.transaction(Scope.everything) as session:
            session.get_one(Adapter, adapter_id).uri = ""
        removed += 1
    return removed
