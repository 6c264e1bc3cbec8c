"""A process that listens on its usual port or on a free one, with a small program in its place."""

import os
import socket
import sys
import time

import pytest

from celora.workers.node.listener import Listener
from celora.workers.node.ports import free_port
from celora.workers.node.processes import Service

LISTENS = """
import socket, sys, time
server = socket.socket()
server.bind(('127.0.0.1', int(sys.argv[-1])))
server.listen()
time.sleep(600)
"""


class Plain(Listener):
    @property
    def arguments(self):
        return ["--port", str(self.port)]


@pytest.fixture
def up(tmp_path):
    """Starts a program as the listener's process, and waits for it."""
    services = []

    def run(listener, program, within_s=300.0):
        command = [sys.executable, "-S", "-c", program, *listener.arguments]
        service = Service(name="plain", command=command, environment=dict(os.environ), log=tmp_path / "plain.log")
        services.append(service)
        service.start(tmp_path)
        return listener.wait_until_up(service, tmp_path, time.monotonic() + within_s)

    yield run
    for service in services:
        service.end()


def test_it_takes_its_usual_port_where_that_is_free():
    usual = free_port()
    assert Plain(usual).port == usual
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert Plain(taken).port != taken


def test_it_is_started_again_on_another_port_once(up):
    listener = Plain(free_port())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listener.port = taken = other.getsockname()[1]
        assert up(listener, LISTENS) is True
        assert listener.port != taken
    assert up(Plain(free_port()), "raise SystemExit(3)") is False


def test_it_is_waited_for_no_longer_than_the_deadline(up):
    assert up(Plain(free_port()), "import time; time.sleep(600)", within_s=0.0) is False
