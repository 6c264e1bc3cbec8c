"""``celora.slots`` runs the schedules that are due.

The task is separate from the tick, at the same interval: reading a file that grew may take a while, and no job should
wait for that.
"""

from typing import Any

from ..models.database import get_database
from ..services.rounds.due_schedules import run_due_schedules
from ..settings.settings import get_settings
from .base import task


@task("slots", ignore_result=True, send_events=False)
def run_schedules(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Submit the jobs of the schedules that are due."""
    run_due_schedules(get_database(), get_settings())
