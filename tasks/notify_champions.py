"""``celora.champions`` sends the pending notifications of changes of champions.

This task is separate from the tick: the installation's command may take long, and no job should wait for the command.
"""

from typing import Any

from ..models.database import get_database
from ..services.champions import tell
from ..settings.settings import get_settings
from .base import task


@task("champions", ignore_result=True, send_events=False)
def notify_champions(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Write the alias and run the installation's command for each pending change."""
    tell(get_database(), get_settings())
