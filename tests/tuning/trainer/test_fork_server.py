"""The fork server's side of its protocol, and the libraries in its children."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from celora.tuning.trainer import fork_server

def answer(events):
    {answer}
    return 7

if {bare}:
    fork_server.LIBRARIES = ()
sys.exit(fork_server.run(int(sys.argv[1]), 60.0, answer))
"""


class Served:
    """A server, our end of its socket, and trainers forked from it."""

    def __init__(self, answer, *, bare=True):
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(answer=answer, bare=bare), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "2"},
            )
        assert self.channel.recv(1) == b"."

    def fork(self):
        """Fork a trainer whose requests, log and events are the null device; return its control socket as a file."""
        control, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_RDWR)
        with theirs:
            socket.send_fds(self.channel, [b"x"], [null, null, null, theirs.fileno()])
        os.close(null)
        with control:
            return control.makefile("rwb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        assert self.process.wait(60) == 0


def fact(control):
    return json.loads(control.readline())


def test_a_trainer_is_a_zombie_until_its_control_socket_is_closed():
    with Served("pass") as server:
        with server.fork() as control:
            pid = fact(control)["pid"]
            assert fact(control) == {"code": 7}
            assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        server.fork().close()  # the server has read the end of the first before it forks another
    assert not Path(f"/proc/{pid}").exists()


def test_a_trainer_whose_supervisor_is_gone_is_reaped_and_the_server_goes_on():
    with Served("sys.stdin.read()") as server:
        server.fork().close()
        with server.fork() as control:
            fact(control)
            assert fact(control) == {"code": 7}


def test_a_trainer_holds_no_descriptor_of_the_server_or_of_its_neighbours():
    with Served("os.kill(os.getpid(), 19)") as server:
        with server.fork() as control:
            pid = fact(control)["pid"]
            while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
                time.sleep(0.01)
            opened = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
            os.kill(pid, signal.SIGKILL)
            assert fact(control) == {"code": -signal.SIGKILL}
        assert opened == {os.devnull}


def test_a_trainer_keeps_its_descriptors_while_an_ended_neighbour_is_not_reaped_yet():
    with Served("sys.stdin.read(); os.fstat(0), os.fstat(1), os.fstat(events)") as server, server.fork() as first:
        fact(first)
        assert fact(first) == {"code": 7}
        with server.fork() as second:
            fact(second)
            assert fact(second) == {"code": 7}


@pytest.mark.slow
def test_threads_of_the_libraries_work_in_every_child():
    """After an OpenMP region before the fork, GNU's OpenMP would wait here for threads that do not exist."""
    product = "import torch; torch.set_num_threads(2); x = torch.ones(600, 600); assert float((x @ x)[0, 0]) == 600"
    with Served(product, bare=False) as server:
        for _ in range(2):
            with server.fork() as control:
                fact(control)
                assert fact(control) == {"code": 7}
