"""The API's port and line, with a small program in its place that listens where it is told."""

import os
import socket
import sys
import time

import pytest

from celora.workers.node import api_process, listener
from celora.workers.node.api_process import PROGRAM, ApiListener, installed
from celora.workers.node.processes import Service

LISTENS = """
import socket, sys, time
server = socket.socket()
server.bind(('127.0.0.1', int(sys.argv[-1])))
server.listen()
time.sleep(600)
"""


@pytest.fixture
def serve(tmp_path):
    """Starts a program in the API's place and waits for it; returns the line."""
    services = []

    def run(api, program, within_s=300.0):
        command = [sys.executable, "-S", "-c", program, *api.arguments]
        service = Service(name="api", command=command, environment=dict(os.environ), log=tmp_path / "api.log")
        services.append(service)
        service.start(tmp_path)
        return api.await_up(service, tmp_path, time.monotonic() + within_s)

    yield run
    for service in services:
        service.end()


def test_its_line_has_the_base_url_of_clients(serve):
    api = ApiListener()
    assert serve(api, LISTENS) == f"API http://127.0.0.1:{api.port}/v1"


def test_it_moves_to_another_port_where_its_own_was_taken_meanwhile(serve):
    api = ApiListener()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        api.port = taken = other.getsockname()[1]
        line = serve(api, LISTENS)
    assert line == f"API {api.url}"
    assert api.port != taken


def test_one_that_ends_is_told_with_its_log(serve, tmp_path):
    assert serve(ApiListener(), "raise SystemExit(3)") == f"the API did not come up; its log is {tmp_path}/api.log"


def test_the_usual_port_is_taken_only_where_it_is_free(monkeypatch):
    monkeypatch.setattr(listener, "is_free", lambda port: port == 8320)
    assert ApiListener().arguments == ["--host", "127.0.0.1", "--port", "8320"]
    monkeypatch.setattr(listener, "is_free", lambda _port: False)
    assert ApiListener().port != 8320


def test_the_program_is_the_command():
    from importlib.util import find_spec

    assert PROGRAM[:1] == ["-m"]
    assert find_spec(f"{PROGRAM[1]}.__main__") is not None


def test_it_is_installed_only_with_all_of_its_packages(monkeypatch):
    assert installed() is True
    monkeypatch.setattr(api_process.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert installed() is False
