"""The collector rests while a trainer imports, and sees later objects alone."""

import gc
import subprocess
import sys

import pytest

from celora.tuning import garbage_collector


@pytest.fixture
def collecting():
    """Puts the collector back as it was, with everything in its sight."""
    yield
    gc.unfreeze()
    gc.enable()


def test_what_was_there_at_the_resume_is_out_of_the_collectors_sight(collecting):
    garbage_collector.pause()
    assert not gc.isenabled()
    garbage_collector.resume()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 1000


def test_a_collector_that_was_not_paused_is_left_alone(collecting):
    before = gc.get_freeze_count()
    garbage_collector.resume()
    assert gc.get_freeze_count() == before


def test_the_trainer_imports_without_it():
    code = """
import gc
before = gc.get_stats()[2]
import celora.tuning.trainer.__main__
print(gc.isenabled(), gc.get_stats()[2] == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
