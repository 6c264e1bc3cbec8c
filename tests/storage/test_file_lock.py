import multiprocessing
import os
import subprocess
import sys

import pytest

from celora.storage.file_lock import is_locked, locked, locked_if_free

HOLDS = """
import sys
from pathlib import Path
from celora.storage.file_lock import is_locked, locked
with locked(Path(sys.argv[1]), shared="shared" in sys.argv):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock until its standard input is closed."""
    started = []

    def hold(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(tmp_path / "lock"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_it_is_seen_from_outside_that_a_file_is_locked(tmp_path):
    assert not is_locked(tmp_path / "lock")
    with locked(tmp_path / "lock"):
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


def test_a_lock_that_another_process_holds_is_not_free(tmp_path, holder):
    holder()
    with locked_if_free(tmp_path / "lock") as file:
        assert file is None


def test_a_killed_process_releases_its_lock(tmp_path, holder):
    process = holder()
    process.kill()
    process.wait()
    with locked(tmp_path / "lock"), locked_if_free(tmp_path / "other") as file:
        assert file is not None


def test_shared_holders_are_inside_together(tmp_path, holder):
    holder("shared")
    with locked(tmp_path / "lock", shared=True), locked_if_free(tmp_path / "lock") as file:
        assert file is None


def test_the_folder_is_made_and_what_the_holder_writes_is_there_for_the_next(tmp_path):
    path = tmp_path / "a" / "b" / "lock"
    with locked_if_free(path) as file:
        file.write("7")
    with locked(path) as file:
        file.seek(0)
        assert file.read() == "7"


def test_a_child_that_was_forked_inside_the_block_does_not_keep_the_lock(tmp_path):
    """A forked child holds the same open file."""
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    with locked(tmp_path / "lock"):
        child = context.Process(target=lambda: (begun.set(), end.wait(60), os._exit(0)))
        child.start()
        assert begun.wait(60)
    with locked_if_free(tmp_path / "lock") as file:
        assert file is not None
    end.set()
    child.join(60)
