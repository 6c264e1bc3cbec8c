"""``celora.check_data`` checks the data of a job that a tenant may submit."""

from typing import Any

from ..models.database import get_database
from ..services.native.checks import run
from ..settings.settings import get_settings
from .base import task


@task("check_data", ignore_result=True)
def check_data(self: Any, check_id: str) -> None:  # noqa: ARG001  (Celery binds every task)
    """Make a check, unless it has ended or another worker makes it."""
    run(get_database(), get_settings(), check_id)
