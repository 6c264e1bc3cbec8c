"""``celora.notify`` delivers webhooks and the messages to people's channels.

This task is separate from the tick: receivers may be slow, and no job should wait for them.
"""

from typing import Any

from ..models.database import get_database
from ..services.rounds.notifications import send_notifications
from ..settings.settings import get_settings
from .base import task


@task("notify", ignore_result=True, send_events=False)
def notify(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Deliver the notices that are due."""
    send_notifications(get_database(), get_settings())
