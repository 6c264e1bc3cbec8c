"""Remote commands: ``look``, and Celery's own ``revoke``, taught that a revoke of a job is its cancel.

``AsyncResult(job_id).revoke()`` and Flower's button send it to every worker. For the id of a job, or of one of its
stages' messages, the record's cancel flag is set, the job ends at once where nothing of it runs, and the worker that
carries it is told by a marker. Any other id goes to Celery's own command: it belongs to somebody else.
"""

import logging
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker.control import Panel, control_command
from sqlalchemy.exc import SQLAlchemyError

from ..models import transitions
from ..models.database import get_database
from ..models.tables import Job
from ..settings.errors import UnavailableError
from ..settings.settings import get_settings
from . import announce, standing
from .markers import Markers

logger = logging.getLogger(__name__)

celery_revoke: Any = Panel.data["revoke"]


@control_command(
    name="revoke",
    variadic="task_id",
    signature="[id1 [id2 [... [idN]]]]",
)
def revoke(state: Any, task_id: str | list[str], terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002  (the signature is Celery's)
    """Cancel jobs by their id or a stage's; any other task is revoked as usual."""
    ids = [str(one) for one in maybe_list(task_id) or []]
    others = [one for one in ids if not _cancel(one.split(".", 1)[0])]
    if not others:
        return {"ok": f"jobs {', '.join(ids)} are being cancelled"}
    return celery_revoke(state, others, terminate=terminate, signal=signal, **kwargs)


@control_command(name="look")
def look(_state: Any) -> dict[str, str]:
    """Look at this worker's row now, and not only at its next heartbeat: it was cordoned, say, or asked to drain."""
    standing.here.look()
    return {"ok": "looks at the record"}


def _cancel(job_id: str) -> bool:
    """Whether the id is a job's; then it is being cancelled."""
    database = get_database()
    try:
        with database.transaction() as session:
            if session.get(Job, job_id) is None:
                return False
            answer = transitions.request_cancel(session, job_id)
    except (SQLAlchemyError, UnavailableError):
        logger.exception("the record cannot be reached; %s is not cancelled", job_id)
        return True
    if answer == "cancelled":
        announce.announce(database, job_id)
    elif answer == "cancelling":
        markers = Markers(get_settings().home / "run")
        markers.set(markers.cancel(job_id))
    return True


Panel.data["revoke"] = revoke
