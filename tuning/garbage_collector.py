"""Turns Python's garbage collector off during a trainer's start.

Importing torch, transformers and similar libraries makes some million objects that live as long as the process. The
collector walks all of them again and again while they are made, and once more at each full collection of the training:
a quarter of the time of a trainer's imports, and 0.4 s of each run's first step. So the collector is off while the
program imports, and the objects that exist afterwards are frozen, that is, excluded from collection.
"""

import gc


def pause() -> None:
    """Turn the collector off until ``resume``."""
    gc.disable()


def resume() -> None:
    """Turn the collector on again for objects made from now on; do nothing where it was not paused."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
