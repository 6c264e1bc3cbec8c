"""The trainer hosts of a machine: one that hangs, one of another version, and those that broke down."""

import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from celora.doctor import trainer_hosts as doctor
from celora.settings.settings import load_settings
from celora.storage.file_lock import locked
from celora.storage.unix_socket import listen, short_path
from celora.tuning.trainer.host_messages import ExitReport, Greeting, exit_path, lock_path
from celora.workers.stages.resident import place_of
from celora.workers.trainer import hosts

ROW = {"id": "cpu-0@here", "host": platform.node(), "kind": "gpu", "pid": os.getpid(), "gpu_type": "cpu",
       "device_index": 0}  # fmt: skip
FACTS = {"generation": "g", "pid": 1, "versions": {}, "device": "cpu", "threads": 1, "started_at": 0, "memory_bytes": 0}
HANGING = """
import signal, sys, time
from pathlib import Path
from celora.storage.file_lock import locked
from celora.storage.unix_socket import listen

signal.signal(signal.SIGTERM, signal.SIG_IGN)
with locked(Path(sys.argv[2])), listen(Path(sys.argv[1])):
    time.sleep(600)
"""


@pytest.fixture
def place(home):
    (home / "run").mkdir(exist_ok=True)
    return place_of(load_settings(), os.getpid())


def found(*rows):
    return {finding.check: finding for finding in doctor.trainer_hosts(load_settings(), rows)}


def state(**facts):
    return doctor.HostState(worker="l4-0@here", log=Path("/logs/trainer-host-l4-0.log"), **facts)


def test_a_machine_without_a_host_has_no_fault_and_workers_of_others_are_left_alone(place):
    assert {finding.level for finding in found(ROW).values()} == {"ok"}
    assert found({**ROW, "host": "there"}, {**ROW, "kind": "prep"}) == {}


def test_a_host_that_lives_and_does_not_answer_is_named_with_the_command_that_ends_it(place, monkeypatch):
    monkeypatch.setattr(doctor, "ALL_S", 0.2)
    with locked(lock_path(place.socket)), listen(place.socket):
        answers = found(ROW)["hosts.answers"]
    assert (answers.level, "cpu-0@here" in answers.found) == ("fail", True)
    assert "`celora host restart cpu-0@here`" in answers.fix
    assert "trainer-host-cpu-0.log" in answers.fix
    assert found(ROW)["hosts.answers"].level == "ok", "its lock is free: it is gone"


def test_a_restart_kills_a_host_that_neither_answers_nor_ends(place, monkeypatch):
    monkeypatch.setattr(hosts, "ASK_S", 0.2)
    monkeypatch.setattr(hosts, "SILENT_S", 0.2)
    command = [sys.executable, "-c", HANGING, str(place.socket), str(lock_path(place.socket))]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: hosts.is_silent(place))
            assert hosts.end(place)
            assert process.wait(10) == -signal.SIGKILL
        finally:
            process.kill()
    assert not hosts.end(place)


def test_a_socket_that_nobody_serves_ends_no_process(place):
    with socket.socket(socket.AF_UNIX) as bound:
        with short_path(place.socket) as path:
            bound.bind(path)
        with locked(lock_path(place.socket)):
            assert hosts.is_silent(place)
            assert not hosts.end(place)


def test_a_host_of_other_versions_is_named_with_them():
    other = Greeting.model_validate(FACTS | {"versions": {"celora": "0.0.1"}})
    judged = doctor.versions([state(greeting=other)])
    assert (judged.level, "celora 0.0.1 and not" in judged.found) == ("warn", True)
    assert "`celora host restart l4-0@here`" in judged.fix
    assert doctor.versions([state(greeting=Greeting.model_validate(FACTS))]).level == "ok"


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"code": None, "signal": 11}, "the last by SIGSEGV"),
        ({"code": None, "signal": 9, "oom_kills": 1}, "lack of memory"),
        ({"code": 71, "signal": None}, "the last with exit code 71"),
    ],
)
def test_hosts_that_break_down_again_and_again_are_counted_with_the_last_cause(place, last, words):
    def end(generation, **facts):
        path = exit_path(place.socket, generation)
        path.write_text(ExitReport(generation=generation, **facts).model_dump_json())
        return path

    for number in range(3):
        end(f"in order {number}", code=0, signal=None)
    end("first", code=71, signal=None)
    os.utime(end("long ago", code=71, signal=None), (0, 0))
    end("torn", code=71, signal=None).write_text("{")
    end("second", code=71, signal=None)
    assert found(ROW)["hosts.ends"].level == "ok"
    os.utime(end("third", **last), None)
    ends = found(ROW)["hosts.ends"]
    assert (ends.level, words in ends.found, "3 times" in ends.found) == ("warn", True, True)
    assert "trainer-host-cpu-0.log" in ends.fix
