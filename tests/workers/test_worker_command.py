"""``celery -A celora.workers worker``: the real command, refused with a sentence where it is wrong."""

import os
import subprocess
import sys

import pytest

from celora.models.database import Database

pytestmark = pytest.mark.slow


def worker(home, *options, migrate=True):
    home.mkdir(exist_ok=True)
    if migrate:
        database = Database(f"sqlite:///{home / 'celora.db'}")
        database.migrate()
        database.dispose()
    environment = {**os.environ, "CELORA_HOME": str(home), "CELORA_BROKER_URL": "redis://127.0.0.1:1/0"}
    environment.pop("CELORA_DATABASE_URL", None)
    command = [sys.executable, "-m", "celery", "-A", "celora.workers", "worker", *options]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stderr


def test_a_queue_of_a_gpu_that_is_not_here_is_refused(tmp_path):
    code, said = worker(tmp_path / "home", "-Q", "gpu.a100-80")
    assert code != 0
    assert said.count("celora: -Q gpu.a100-80 needs a GPU of type a100-80") == 1
    assert "Traceback" not in said


def test_a_worker_without_queue_or_device_is_refused(tmp_path):
    code, said = worker(tmp_path / "home")
    assert code != 0
    assert "neither --gpu nor -Q" in said


def test_a_worker_that_finds_no_record_says_what_to_do(tmp_path):
    code, said = worker(tmp_path / "home", "-Q", "prep", migrate=False)
    assert code != 0
    assert "celora migrate" in said
    assert "Traceback" not in said
