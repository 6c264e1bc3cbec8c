"""Checks the files of tenants as ``celora check`` reads one: in a trainer process, within the limits of ``prepare``.

Every file ends as ``processed`` or ``error``. A check that could not be run (no disk, a process that died) is tried
again, and after some tries the file ends with an error that says so.
"""

import logging
import tempfile
from pathlib import Path

from ...errors import CeloraError, DataError
from ...models.database import Database
from ...models.openai import files
from ...models.scope.scope import Scope
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ..datasets import indexed
from ..tenants.words import failure_of
from .files import RESEND_S, request_check

logger = logging.getLogger(__name__)

MARGIN_S = 120.0
"""Seconds that a worker keeps its claim beyond the time that the check itself may take."""
LONGEST_DETAILS = 4_000
"""Characters of the description of bad lines."""
UNLIMITED_S = 6 * 3600.0
"""Seconds of a claim where the check's time has no limit."""


def check(database: Database, settings: Settings, file_id: str) -> None:
    """Check a file that nobody checks, and record the result."""
    claim_s = (settings.prepare_wall_s or UNLIMITED_S) + MARGIN_S
    with database.transaction(Scope.everything) as session:
        file = files.claim_check(session, file_id, claim_s)
        if file is None:
            return
        uri, tries = file.uri, file.checks
    rows, fault = None, None
    try:
        rows = _rows(settings, uri)
    except DataError as error:
        fault = str(failure_of(error))
    except CeloraError as error:
        logger.warning("file %s could not be checked (try %d): %s", file_id, tries, error)
        if tries < files.MOST_CHECKS:
            return
        fault = "The file could not be checked: the service had no room or no time for it. Send it again later."
    with database.transaction(Scope.everything) as session:
        files.end_check(session, file_id, rows=rows, fault=fault[:LONGEST_DETAILS] if fault else None)


def request_missing(database: Database) -> None:
    """Ask again for the checks whose message was lost, or whose worker died."""
    with database.transaction(Scope.everything) as session:
        waiting = files.unchecked(session, RESEND_S)
    for file_id in waiting:
        if not request_check(file_id):
            return


def _rows(settings: Settings, uri: str) -> int:
    """Count the rows of a file, each of which must be an example to train on.

    Raises:
        DataError: It has bad rows, or none.
    """
    artifacts = Artifacts(settings.artifacts)
    there = artifacts.local_path(uri)
    with tempfile.TemporaryDirectory(prefix="celora-file-") as scratch:
        path = there or Path(scratch) / uri.rsplit("/", 1)[1]
        if there is None:
            artifacts.get_file(uri, path)
        with indexed(settings, path, examples=True) as (found, _):
            return int(found["rows"])
