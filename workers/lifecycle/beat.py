"""Runs beat; refuses an unsafe app with a message, as workers do, and goes on after the clock was set back."""

import platform
import sys
from datetime import timedelta
from logging import getLogger
from typing import Any

from celery.apps import beat
from celery.beat import PersistentScheduler

from ...errors import CeloraError
from .. import logging
from ..app_checks import require_safe

logger = getLogger(__name__)

TOLERANCE = timedelta(seconds=1)
"""Largest correction of the clock that does not count as a jump."""


class Beat(beat.Beat):
    """Celery's beat with a check of the app before the first tick."""

    def run(self) -> None:
        """Check the app, then tick until the end."""
        try:
            require_safe(self.app)
        except CeloraError as error:
            sys.exit(f"celora: {error}")
        logging.name_process(f"beat@{platform.node()}")
        self.quiet = self.quiet or logging.in_json()
        super().run()


class Scheduler(PersistentScheduler):
    """Celery's scheduler with a correction for a wall clock that was set back.

    Celery compares wall clocks: after a jump of a day into the past no task would be due for a day, neither the
    scheduling round nor the reaper. The same holds for a schedule file that was written while the clock was fast.
    """

    def tick(self, *args: Any, **options: Any) -> float:
        """Set the last run of an entry from the future to now, then tick as Celery does."""
        now = self.app.now()
        ahead = [entry for entry in self.schedule.values() if entry.last_run_at and entry.last_run_at > now + TOLERANCE]
        for entry in ahead:
            entry.last_run_at = now
        if ahead:
            logger.warning("the clock was set back: %d entries of the schedule begin anew", len(ahead))
            self._heap = None  # Celery's own times of the next runs, which are in the future as well
        return float(super().tick(*args, **options))
