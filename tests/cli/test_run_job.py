"""``celora run-job``: its exit codes, and its leaving when it is asked to."""

import os
import signal
import threading

import pytest

from celora.errors import UnavailableError
from celora.models import workers
from celora.models.database import get_database
from celora.models.jobs import requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.workers import gpu, gpu_option, requirements


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """A machine without a GPU; handlers of signals and the pinned device are undone."""
    monkeypatch.setattr(gpu, "_nvml", lambda: None)
    monkeypatch.setenv(gpu_option.PINNED, "")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_cancelled_job_ends_in_130(celora, job):
    with get_database().transaction(Scope.everything) as session:
        requests.request_cancel(session, job)
    assert celora("run-job", job[:30]).exit_code == 130


def test_a_failed_job_ends_in_the_code_of_its_error(celora, job):
    with get_database().transaction(Scope.everything) as session:
        transitions.send(session, job, 1, "prepare", queue="prep")
        transitions.claim(session, job, 1, "prepare", worker_id="w", lease_s=90)
        transitions.fail(session, Claim(job, 1, "w"), {"code": "bad_data", "message": "it broke", "hint": ""})
    assert celora("run-job", job).exit_code == 65


def test_an_unknown_job_is_a_sentence(celora, tables):
    result = celora("run-job", "nobody")
    assert result.exit_code == 66
    assert "there is no job nobody" in result.stderr


def test_a_record_without_tables_is_a_sentence(celora, new_home):
    new_home.mkdir()
    result = celora("run-job", "nobody")
    assert (result.exit_code, "celora migrate" in result.stderr) == (64, True)


def test_a_machine_without_the_training_libraries_takes_no_job(celora, job, monkeypatch):
    monkeypatch.setattr(requirements, "NEEDED", ("no_such_library",))
    result = celora("run-job", job)
    assert result.exit_code == UnavailableError.exit_code
    assert "no_such_library not installed" in result.stderr


def test_a_job_that_a_worker_has_is_waited_for_until_this_process_is_asked_to_leave(celora, job):
    with get_database().transaction(Scope.everything) as session:
        workers.register(session, "prep@there", host="there", kind="prep", pid=1, queues=["prep"])
        transitions.send(session, job, 1, "prepare", queue="prep")
        transitions.claim(session, job, 1, "prepare", worker_id="prep@there", lease_s=900)
    before, pause = signal.getsignal(signal.SIGTERM), threading.Event()

    def leave():
        while signal.getsignal(signal.SIGTERM) is before:
            pause.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=leave)
    other.start()
    assert celora("run-job", job).exit_code == 75
    other.join()
