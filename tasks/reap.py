"""``celora.reap`` takes back the jobs whose lease ran out."""

from typing import Any

from ..models.database import get_database
from ..services.rounds.expired_leases import take_back_expired
from ..settings.settings import get_settings
from .base import task


@task("reap", ignore_result=True, send_events=False)
def reap(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Return the jobs of lost workers to the queue, or end those that have no attempts left."""
    take_back_expired(get_database(), get_settings())
