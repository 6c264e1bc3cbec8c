"""Waits for conditions. The limit only ends a test that hangs; no test fails or passes by the time that work takes."""

import threading
import time

HANG_S = 240.0
"""Below the time-out of a test, so that a test that hangs says for which condition."""


def until(condition, what="the condition did not come", hang_s=HANG_S, poll_s=0.02):
    """Wait for a condition and return its value; ``what`` is a text, or makes one, for a test that hangs."""
    pause, deadline = threading.Event(), time.monotonic() + hang_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        pause.wait(poll_s)
    return found
