"""``celora.sweep`` deletes artifacts by age: older checkpoints; data and logs of jobs that ended long ago."""

from typing import Any

from ..models.database import get_database
from ..services import champions
from ..services.chat.unloading import unload_deleted
from ..services.openai.file_sweep import sweep_files, sweep_models
from ..services.rounds.sweep import sweep_artifacts, sweep_record
from ..settings.settings import get_settings
from .base import task


@task("sweep", ignore_result=True, send_events=False)
def sweep(self: Any) -> None:  # noqa: ARG001  (Celery binds every task)
    """Delete artifacts that no unfinished job needs, and write the missing aliases of champions again."""
    settings, database = get_settings(), get_database()
    champions.mend(database, settings)
    sweep_artifacts(settings, database)
    sweep_record(database)
    sweep_files(database, settings)
    sweep_models(database, settings)
    unload_deleted(database, settings)
