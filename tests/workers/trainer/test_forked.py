"""Trainers from a fork server: what a supervisor sees of them is what it sees of a new process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from celora.workers.trainer import forked
from celora.workers.trainer.forked import Pipes, WarmStart, fork

SERVER = """
import os, sys, time
from celora.tuning.trainer import fork_server

def answer(events):
    word = sys.stdin.readline().strip()
    print("log:", word, os.environ.get("MARK", ""), flush=True)
    os.write(events, b"event")
    if word == "wait":
        sys.stdin.read()
    if word == "die":
        os.kill(os.getpid(), 11)
    if word == "raise":
        raise RuntimeError("no answer")
    return 75

print("said by a library")
fork_server.LIBRARIES = ()
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
sys.exit(fork_server.run(int(arguments["--fork-server"]), float(arguments["--idle-s"]), answer))
"""
"""A server whose trainers read a word; the libraries are left out."""


@pytest.fixture
def server(tmp_path):
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    yield (str(program),)
    forked.stop()


@pytest.fixture
def trainer(tmp_path, server):
    """Starts a trainer with a word on its standard input; returns it with the descriptors of its input and events."""
    opened = []

    def start(word, *, idle_s=60.0, program=server, **variables):
        requests, mine = os.pipe()
        events, theirs = os.pipe()
        opened.extend((mine, events))
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), **variables}
        with (tmp_path / "log").open("ab") as log:
            made = fork(program, environment, WarmStart(idle_s), Pipes(requests, log.fileno(), theirs))
        os.close(requests)
        os.close(theirs)
        if made is not None:
            os.write(mine, word.encode() + b"\n")
        return made, mine, events

    yield start
    for descriptor in opened:
        os.close(descriptor)


def test_a_trainer_reads_its_request_and_writes_its_log_its_events_and_its_code(trainer, tmp_path):
    made, _, events = trainer("hello")
    assert os.read(events, 64) == b"event"
    assert made.wait(60) == 75
    assert made.poll() == 75
    assert os.read(events, 64) == b"", "somebody else holds the descriptor of the events"
    assert (tmp_path / "log").read_text() == "said by a library\nlog: hello \n"


def test_it_is_the_leader_of_a_group_and_a_session_of_its_own(trainer):
    made, _, events = trainer("wait")
    os.read(events, 64)
    assert os.getpgid(made.pid) == os.getsid(made.pid) == made.pid
    with pytest.raises(subprocess.TimeoutExpired):
        made.wait(0)
    assert made.poll() is None
    os.killpg(made.pid, signal.SIGKILL)
    assert made.wait(60) == -signal.SIGKILL


def test_it_ends_with_the_end_of_its_requests_though_a_neighbour_was_forked_meanwhile(trainer):
    first, requests, _ = trainer("wait")
    second, _, _ = trainer("wait")
    assert first.poll() is None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, requests)  # closes the last writing end of the first
    os.close(nowhere)
    assert first.wait(60) == 75
    assert second.poll() is None
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize(("word", "code"), [("die", -signal.SIGSEGV), ("raise", 1)])
def test_a_crash_has_its_code_and_the_server_goes_on(trainer, word, code):
    first, _, _ = trainer(word)
    assert first.wait(60) == code
    parent = forked._server._process.pid
    second, _, _ = trainer("hello")
    assert second.wait(60) == 75
    assert forked._server._process.pid == parent


def test_no_process_is_left_when_the_server_stops(trainer):
    made, _, _ = trainer("hello")
    made.wait(60)
    server = forked._server._process
    forked.stop()
    assert server.returncode == 0
    assert not Path(f"/proc/{made.pid}").exists()


def test_an_idle_server_leaves_and_the_next_trainer_starts_another(trainer):
    made, _, _ = trainer("hello", idle_s=0.2)
    assert made.wait(60) == 75
    forked._server._process.wait(60)
    made, _, _ = trainer("hello", idle_s=0.2)
    assert made.wait(60) == 75


def test_another_environment_gets_another_server(trainer, tmp_path):
    trainer("one", MARK="first")[0].wait(60)
    trainer("two", MARK="second")[0].wait(60)
    logged = (tmp_path / "log").read_text().splitlines()
    assert [line for line in logged if line.startswith("log:")] == ["log: one first", "log: two second"]


def test_a_killed_server_is_replaced_and_its_trainer_counts_as_killed(trainer):
    made, _, events = trainer("wait")
    os.read(events, 64)
    forked._server._process.kill()
    forked._server._process.wait(60)
    os.kill(made.pid, signal.SIGKILL)
    assert made.wait(60) == -signal.SIGKILL
    made, _, _ = trainer("hello")
    assert made.wait(60) == 75


def test_a_server_that_cannot_start_is_told_so_that_a_new_process_is_started(trainer, tmp_path, caplog):
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit(3)")
    made, _, _ = trainer("hello", program=(str(broken),))
    assert made is None
    assert "process of its own" in caplog.text


def test_nobody_who_has_to_stop_waits_for_a_server_that_is_starting(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(600)")
    before = time.monotonic()
    null = os.open(os.devnull, os.O_RDWR)
    assert fork((str(slow),), dict(os.environ), WarmStart(60, lambda: True), Pipes(null, null, null)) is None
    os.close(null)
    forked.stop()
    assert time.monotonic() - before < 300
