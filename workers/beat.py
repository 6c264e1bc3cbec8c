"""Beat as ours runs it: refuses what the workers refuse, with a sentence, and has no banner in a log of JSON lines."""

import platform
import sys

from celery.apps import beat

from ..settings.errors import CeloraError
from . import log_lines
from .safety import require_safe


class Beat(beat.Beat):
    """Celery's beat, checked before it ticks."""

    def run(self) -> None:
        """Check, then tick until the end."""
        try:
            require_safe(self.app)
        except CeloraError as error:
            sys.exit(f"celora: {error}")
        log_lines.name_process(f"beat@{platform.node()}")
        self.quiet = self.quiet or log_lines.in_json()
        super().run()
