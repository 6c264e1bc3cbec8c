"""Celery's own command line, with the mini trainer as the program that workers start: ``launcher.py worker --gpu 0``.

Forked children inherit the change. Nothing else of celora is touched.
"""

import sys
from pathlib import Path


def main():
    from celery.__main__ import main as celery

    from celora.workers import process

    assert process.PROGRAM == ("-m", "celora.tuning.trainer")
    process.PROGRAM = (str(Path(__file__).with_name("mini_trainer.py")),)
    sys.argv = ["celery", "-A", "celora.workers", *sys.argv[1:]]
    celery()


if __name__ == "__main__":
    main()
