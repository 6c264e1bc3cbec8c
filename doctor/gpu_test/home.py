"""Makes the home of a trial: a record, artifacts and a quantized base of its own; the installation stays unchanged.

The hub's files and the converted bases are shared, since their download takes long. The broker is Celery's in-memory
one, so no message of the trial reaches a worker of the installation.
"""

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from ...models.database import Database
from ...settings.settings import get_settings
from ...tuning.bases.cache import CONVERTED, HUB

OWN = {
    "CELORA_BROKER_URL": "memory://",
    "CELORA_RESULT_BACKEND": "cache+memory://",
    "CELORA_PROFILE": "local",
    "CELORA_RETRY_WAIT_S": "1",
    "CELORA_MAX_ATTEMPTS": "2",
    "CELORA_WARM_S": "0",
    "CELORA_ALLOWED_ROOTS": '["/"]',
}
"""The settings of a trial; every other setting is the installation's."""
SHARED = ("celora.toml", "secrets.json")


class Home:
    """Makes a folder that exists from ``with`` to the end of the block, and longer where ``keep`` is set.

    Args:
        folder: Path of the folder; it must not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keep = False
        self.log = folder / "run-job.log"
        self.database = Database(f"sqlite:///{folder / 'celora.db'}")

    @property
    def cache(self) -> Path:
        """Folder of the trial's base models."""
        return self.folder / "cache"

    def environment(self) -> dict[str, str]:
        """Build the environment of the process that runs the job."""
        mine = {
            "CELORA_HOME": str(self.folder),
            "CELORA_DATABASE_URL": f"sqlite:///{self.folder / 'celora.db'}",
            "CELORA_ARTIFACT_ROOT": f"file://{self.folder / 'artifacts'}",
        }
        return {**os.environ, **OWN, **mine}

    def __enter__(self) -> Self:
        settings = get_settings()
        self.cache.mkdir(parents=True)
        for name in (CONVERTED, HUB):
            (settings.cache / name).mkdir(parents=True, exist_ok=True)
            (self.cache / name).symlink_to(settings.cache / name, target_is_directory=True)
        for name in SHARED:
            if (settings.home / name).exists():
                (self.folder / name).symlink_to(settings.home / name)
        self.database.migrate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.database.dispose()
        if not self.keep:
            shutil.rmtree(self.folder)
