"""Celery's own command line, with the mini trainer as the program that workers start: ``launcher.py worker --gpu 0``.

Forked children inherit the change. ``cancel_consumer`` works again, which makes a worker deaf; celora refuses it.
"""

import sys
from pathlib import Path


def main():
    from celery.__main__ import main as celery
    from celery.worker.control import Panel

    cancel_consumer = Panel.data["cancel_consumer"]

    from celora.workers.lifecycle import control  # noqa: F401  (it replaces the handlers when it is imported)
    from celora.workers.trainer import process

    Panel.data["cancel_consumer"] = cancel_consumer

    assert process.PROGRAM == ("-m", "celora.tuning.trainer")
    process.PROGRAM = (str(Path(__file__).with_name("mini_trainer.py")),)
    sys.argv = ["celery", "-A", "celora.workers", *sys.argv[1:]]
    celery()


if __name__ == "__main__":
    main()
