"""``celora.check_file`` checks a file that came over HTTP."""

from typing import Any

from ..models.database import get_database
from ..services.openai.file_checks import check
from ..settings.settings import get_settings
from .base import task


@task("check_file", ignore_result=True)
def check_file(self: Any, file_id: str) -> None:  # noqa: ARG001  (Celery binds every task)
    """Check a file, unless its check has ended or another worker runs it."""
    check(get_database(), get_settings(), file_id)
