"""The process of a trial, with a child that calls itself a trainer and has a session of its own."""

import os
import subprocess
import sys
import threading

import psutil
import pytest

from celora.doctor.gpu_test.process import TRAINER, Carrier, alive

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}, {TRAINER!r}], start_new_session=True)
print(sys.argv[1:], flush=True)
time.sleep(600)
"""


def until(reached):
    """Wait for a condition; the suite's own timeout ends it."""
    pause = threading.Event()
    while not (found := reached()):
        pause.wait(0.05)
    return found


@pytest.fixture
def carry(tmp_path):
    started = []

    def start(program):
        command = (sys.executable, "-S", "-c", program)
        started.append(Carrier("job-1", 3, os.environ, tmp_path / "log", command))
        return started[-1]

    yield start
    for carrier in started:
        carrier.end()


def test_it_ends_with_every_child_also_those_of_other_sessions(carry, tmp_path):
    carrier = carry(PARENT)
    (trainer,) = until(carrier.trainers)
    assert alive(trainer)
    assert (carrier.started, carrier.ended, len(carrier.left())) == (2, False, 2)
    carrier.end()
    assert (carrier.ended, carrier.left(), alive(trainer)) == (True, [], False)
    assert (tmp_path / "log").read_text().strip() == "['job-1', '--gpu', '3']"


def test_a_trainer_that_its_parent_left_behind_is_still_known(carry):
    carrier = carry(PARENT)
    (trainer,) = until(carrier.trainers)
    psutil.Process(trainer.ppid()).kill()
    carrier.wait(60)
    assert carrier.trainers() == []
    assert carrier.left() == [trainer.pid]
    carrier.end()
    assert carrier.left() == []


def test_the_exit_code_is_given(carry):
    carrier = carry("raise SystemExit(3)")
    assert carrier.wait(60) == 3
    assert (carrier.ended, carrier.left()) == (True, [])


def test_a_wait_has_an_end(carry):
    with pytest.raises(subprocess.TimeoutExpired):
        carry(SLEEP).wait(0)


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process = psutil.Process(child.pid)
    until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    assert not alive(process)
    child.wait()
    assert not alive(process)
