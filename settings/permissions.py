"""Keeps an installation's files to their owner: the home has mode 700 and new files 600 under any umask.

The record, the queue's file, logs, datasets and adapters lie below ``CELORA_HOME``; the mode of the home protects all
of them, also in an installation that an earlier version made. ``CELORA_SHARE_FILES`` lets the group read.
"""

import logging
import os
import stat
from pathlib import Path

from .settings import Settings

logger = logging.getLogger(__name__)

PRIVATE, GROUP = 0o700, 0o750


def protect(settings: Settings) -> None:
    """Make the home, restrict it, and make new files of this process and its children private.

    A home that belongs to another user stays as it is; ``celora doctor`` reports it.
    """
    os.umask(0o777 & ~_mode(settings))
    restrict_home(settings)


def restrict_home(settings: Settings) -> None:
    """Make the home where it is missing, and close it to other users."""
    home, mode = settings.home, _mode(settings)
    home.mkdir(parents=True, exist_ok=True, mode=mode)
    excess = too_open(home, mode)
    if not excess and stat.S_IMODE(home.stat().st_mode) & mode == mode:
        return
    try:
        home.chmod(mode)
    except PermissionError:
        return
    if excess:
        logger.warning("%s was open to other users (mode %o) and has mode %o now", home, excess, mode)


def too_open(folder: Path, mode: int = PRIVATE) -> int:
    """Return the mode of a folder that admits more users than ``mode`` allows; 0 if it admits no more."""
    found = stat.S_IMODE(folder.stat().st_mode)
    return found if found & 0o777 & ~mode else 0


def _mode(settings: Settings) -> int:
    return GROUP if settings.share_files else PRIVATE


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    if too_open(folder):
        folder.chmod(PRIVATE)
