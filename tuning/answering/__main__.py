"""Runs the answer host: ``python -m celora.tuning.answering``."""

import os
import sys

from .program import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # unloading torch would take another second
