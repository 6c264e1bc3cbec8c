"""The host of a worker: one a place, started by whoever needs it first, replaced where it does not suit."""

import os
import threading
from pathlib import Path

import pytest

from celora.storage.file_lock import is_locked
from celora.tuning.trainer.host_messages import HOST_PROTOCOL, Greeting, lock_path
from celora.workers.trainer import hosts
from celora.workers.trainer.hosts import HostPlace, drop_base, end, greeting_of, join, owner_pid, suits

HOST = str(Path(__file__).parents[2] / "mini_host.py")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place for hosts, which are ended with the test."""
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("MINI_HOST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(hosts, "PROGRAM", (HOST,))
    made = HostPlace(
        socket=tmp_path / "run" / f"host-{os.getpid()}.sock",
        log=tmp_path / "logs" / "host.log",
        owner=os.getpid(),
        device="cpu",
        idle_s=60,
    )
    yield made
    end(made, hosts.LEAVE_S)
    for process in hosts._started:
        process.wait(60)
    hosts._started.clear()


def never():
    return False


def test_a_host_is_started_once_for_all_who_need_it(place):
    found = []

    def need():
        connection = join(place, 1, never)
        found.append(connection.greeting.generation)
        connection.close()

    children = [threading.Thread(target=need) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert greeting_of(place).generation == found[0]


def test_a_host_with_another_number_of_threads_ends_and_another_one_is_started(place):
    first = join(place, 1, never)
    first.close()
    second = join(place, 2, never)
    second.close()
    assert second.greeting.threads == 2
    assert second.greeting.generation != first.greeting.generation


def test_nobody_who_has_to_stop_waits_for_a_host(place):
    assert join(place, 1, lambda: True) is None
    assert greeting_of(place) is None


def test_a_host_that_cannot_start_is_no_reason_to_wait(place, tmp_path, monkeypatch, caplog):
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(hosts, "PROGRAM", (str(broken),))
    assert join(place, 1, never) is None
    assert "exit code 3" in caplog.text


def test_a_host_that_is_ended_frees_its_lock_and_its_memory(place):
    join(place, 1, never).close()
    drop_base(place)
    assert end(place, hosts.LEAVE_S)
    assert not is_locked(lock_path(place.socket))
    assert not end(place)


@pytest.mark.parametrize(
    ("change", "fits"),
    [({}, True), ({"host": HOST_PROTOCOL + 1}, False), ({"threads": 2}, False), ({"versions": {"celora": "0"}}, False),
     ({"versions": {"no-such-library": "1"}}, True)],
)  # fmt: skip
def test_a_host_of_other_versions_does_not_suit(change, fits):
    facts = {
        "generation": "g",
        "pid": 1,
        "versions": {},
        "device": "cpu",
        "threads": 1,
        "started_at": 0,
        "memory_bytes": 0,
    }
    assert suits(Greeting.model_validate(facts | change), 1) is fits


def test_the_owner_is_this_process_unless_a_worker_adopted_it(monkeypatch):
    monkeypatch.setattr(hosts, "_owner", None)
    assert owner_pid() == os.getpid()
    hosts.adopt(os.getppid())
    assert owner_pid() == os.getppid()
