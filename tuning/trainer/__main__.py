"""Runs the trainer program: ``python -m celora.tuning.trainer --events-fd N``."""

import os
import sys

from .. import garbage_collector

garbage_collector.pause()  # before the first large import; program.py resumes it

from .program import main  # noqa: E402

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all files are written and closed; unloading torch would hold the slot for another second
