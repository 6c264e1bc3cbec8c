"""Handles remote commands: ``look``, ``revoke`` as the cancel of a job, and Celery's harmless queries; refuses others.

``AsyncResult(job_id).revoke()`` and Flower's button send ``revoke`` to every worker. For the id of a job, or of one of
its stages' messages, the record's cancel flag is set, the job ends at once if no stage of it runs, and a signal file
reaches the worker that runs it. Any other id is passed to Celery's own command, since it belongs to another
application; its task is never terminated from here.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel, control_command
from pydantic import BaseModel, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ...errors import UnavailableError
from ...models.database import get_database
from ...models.jobs.requests import request_cancel
from ...models.scope.scope import Scope
from ...models.tables import Job
from ...settings.settings import get_settings
from .. import results
from ..signal_files import Markers
from . import cordon
from .control_schema import ALLOWED
from .message_schema import first_fault

logger = logging.getLogger(__name__)

LOGGED_EVERY_S = 10.0
"""Seconds between two log lines about refused commands, so that a stream of them cannot fill the disk."""
REFUSED = (
    "celora refuses the remote command {name}: it would change workers behind the record's back. "
    "Use `celora drain`, `celora cordon`, `celora cancel`, or a signal to the process."
)
Handler = Callable[..., Any]

celery_revoke: Handler = Panel.data["revoke"]
_logged_at: dict[str, float] = {}


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: str | list[str], terminate: bool = False, signal: str | None = None) -> Any:  # noqa: ARG001, FBT001, FBT002  (the signature is Celery's)
    """Cancel jobs by their id or a stage's; any other task is revoked as usual."""
    ids = [task_id] if isinstance(task_id, str) else task_id
    jobs = _cancel({one.split(".", 1)[0] for one in ids})
    others = [one for one in ids if one.split(".", 1)[0] not in jobs]
    if not others:
        return {"ok": f"jobs {', '.join(sorted(jobs))} are being cancelled"}
    return celery_revoke(state, others)


@control_command(name="look")
def look(_state: Any) -> dict[str, str]:
    """Read this worker's row now, before its next heartbeat, since the row was changed: a cordon, say, or a drain."""
    cordon.here.wake()
    return {"ok": "reads its row"}


def _cancel(ids: set[str]) -> set[str]:
    """Cancel the jobs among the ids, in one transaction, and return their ids; all ids where the record is away."""
    database, answers = get_database(), dict[str, str]()
    try:
        with database.transaction(Scope.everything) as session:
            for job_id in session.scalars(select(Job.id).where(Job.id.in_(ids)).order_by(Job.id)).all():
                answers[job_id] = request_cancel(session, job_id)
    except (SQLAlchemyError, UnavailableError):
        logger.exception("the record cannot be reached; %s not cancelled", ", ".join(sorted(ids)[:5]))
        return ids
    markers = Markers(get_settings().home / "run")
    for job_id, answer in answers.items():
        if answer == "cancelled":
            results.announce(database, job_id)
        elif answer == "cancelling":
            markers.set(markers.cancel(job_id))
    return set(answers)


def restrict(handlers: dict[str, Handler]) -> None:
    """Add a check of the arguments to each allowed command, and replace every other handler by a refusal.

    Args:
        handlers: Celery's table of commands, changed in place.
    """
    for name, handler in list(handlers.items()):
        handlers[name] = _checked(name, handler, ALLOWED[name]) if name in ALLOWED else _refusal(name)


def _checked(name: str, handler: Handler, model: type[BaseModel]) -> Handler:
    def handle(state: Any, **arguments: Any) -> Any:
        try:
            known = model.model_validate(arguments)
        except ValidationError as error:
            return _refuse(name, f"celora refuses the remote command {name}: {first_fault(error)}.")
        return handler(state, **known.model_dump(exclude_unset=True))

    return handle


def _refusal(name: str) -> Handler:
    def refuse(_state: Any, **_arguments: Any) -> dict[str, str]:
        return _refuse(name, REFUSED.format(name=name))

    return refuse


def _refuse(name: str, sentence: str) -> dict[str, str]:
    now = time.monotonic()
    if now - _logged_at.get(name, -LOGGED_EVERY_S) >= LOGGED_EVERY_S:
        _logged_at[name] = now
        logger.warning("%s", sentence)
    return {"error": sentence}


Panel.data["revoke"] = revoke
restrict(Panel.data)
