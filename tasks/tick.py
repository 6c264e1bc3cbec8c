"""``celora.tick`` runs one scheduling round."""

from typing import Any

from ..models.database import get_database
from ..services.native import checks
from ..services.openai import file_checks
from ..services.rounds.dispatch import announce_ended, dispatch, resend
from ..settings.settings import get_settings
from ..workers.messages import note_broker_up
from .base import task
from .pipeline import send


@task("tick", ignore_result=True, send_events=False)
def tick(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Give free slots to waiting jobs, send lost messages again, announce ended jobs."""
    note_broker_up()
    settings, database = get_settings(), get_database()
    dispatch(database, settings, send)
    resend(database, settings, send)
    announce_ended(database)
    file_checks.request_missing(database)
    checks.request_missing(database)
