"""The process of the answer host: one for a socket, bare until its first request, gone after its idle time."""

import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager, suppress

import psutil
import pytest
from waiting import until

from celora.storage.file_lock import is_locked, locked_if_free
from celora.storage.unix_socket import short_path
from celora.tuning.answering.messages import Refused, parse_event
from celora.tuning.answering.program import main

HEAVY = ("torch", "transformers", "pydantic", "numpy")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "answer.sock"


def words(place, *more):
    return ["--socket", str(place), "--cache", str(place.parent), "--idle-s", "1", *more]


@contextmanager
def started(place, *more):
    """The host as a process, with the end of its standard input in this one."""
    command = [sys.executable, "-m", "celora.tuning.answering", *words(place, *more)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def connected(place):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(200)
    with short_path(place) as short:
        client.connect(short)
    return client


def test_a_second_host_leaves_at_once(place):
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        with locked_if_free(place.with_suffix(".lock")):
            assert main(words(place)) == 0
    finally:
        os.umask(umask)
    assert not place.exists()


def test_a_host_that_stays_waits_bare_for_its_first_client_and_outlives_the_end_of_its_input(place):
    with started(place, "--stay") as process:
        process.stdin.close()
        until(place.exists)
        mapped = {mapping.path for mapping in psutil.Process(process.pid).memory_maps()}
        assert not [path for path in mapped if any(f"/{name}" in path for name in HEAVY)]
        with closing(connected(place)) as client, client.makefile("rb") as lines:
            client.sendall(b"{}\n")
            assert isinstance(parse_event(lines.readline()), Refused)
        assert process.wait(200) == 0  # the idle time of one second is over
    assert not place.exists()


def answers(place):
    """Whether somebody listens; the file of a host that has ended stays until the next one replaces it."""
    with suppress(OSError), closing(connected(place)):
        return True
    return False


def test_a_host_that_stays_follows_another_one(place):
    lock = place.with_suffix(".lock")
    with started(place) as first:
        until(place.exists)
        with started(place, "--stay") as second:
            first.stdin.close()  # its owner goes
            first.wait(200)
            until(lambda: is_locked(lock) and second.poll() is None and answers(place))
