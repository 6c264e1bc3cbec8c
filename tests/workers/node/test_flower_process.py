"""Flower's port, login and line, with a small program in Flower's place that listens where it is told."""

import os
import socket
import sys
import time

import pytest

from celora.settings.settings import load_settings
from celora.workers.node import flower_process, listener
from celora.workers.node.flower_process import CONFIG, FlowerPage, installed
from celora.workers.node.processes import Service

LISTENS = """
import socket, sys, time
port = int(sys.argv[-1].rpartition('=')[2])
server = socket.socket()
server.bind(('127.0.0.1', port))
server.listen()
time.sleep(600)
"""


@pytest.fixture
def page(home):
    return lambda **settings: FlowerPage(load_settings(**settings))


@pytest.fixture
def serve(tmp_path):
    """Starts a program in Flower's place and waits for it; returns the line."""
    services = []

    def run(page, program, within_s=300.0):
        command = [sys.executable, "-S", "-c", program, *page.arguments]
        service = Service(name="flower", command=command, environment=dict(os.environ), log=tmp_path / "flower.log")
        services.append(service)
        service.start(tmp_path)
        return page.await_up(service, tmp_path, time.monotonic() + within_s)

    yield run
    for service in services:
        service.end()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"flower_auth": "ada:a-long-random-word"}, "user ada, password as CELORA_FLOWER_AUTH says"),
        ({"flower_auth": "ada:word", "flower_read_only": True}, "as CELORA_FLOWER_AUTH says  (read only)"),
    ],
)
def test_it_is_told_once_it_listens(page, serve, settings, words):
    made = page(**settings)
    port = made.arguments[-1].rpartition("=")[2]
    line = serve(made, LISTENS)
    assert line.startswith(f"Flower http://127.0.0.1:{port}  ")
    assert line.endswith(words)
    assert "a-long-random-word" not in line


def test_a_login_that_was_made_up_is_told_and_is_another_each_time(page, serve):
    made = page()
    user, _, password = made.environment["CELORA_FLOWER_AUTH"].partition(":")
    assert serve(made, LISTENS).endswith(f"user {user}, password {password}")
    assert page().environment != made.environment
    assert password not in " ".join(made.arguments), "everybody can read a command line"


def test_it_moves_to_another_port_where_its_own_was_taken_meanwhile(page, serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        made = page()
        made.port = taken
        line = serve(made, LISTENS)
    assert line.startswith("Flower http://127.0.0.1:")
    assert f":{taken} " not in line


def test_one_that_ends_twice_is_told_with_its_log(page, serve, tmp_path):
    assert serve(page(), "raise SystemExit(3)") == f"Flower did not come up; its log is {tmp_path}/flower.log"


def test_one_that_never_listens_is_told_when_the_time_is_over(page, serve):
    assert serve(page(), "import time; time.sleep(600)", within_s=0.0).startswith("Flower did not come up")


def test_its_own_port_is_taken_only_where_it_is_free(page, monkeypatch):
    monkeypatch.setattr(listener, "is_free", lambda port: port == flower_process.PORT)
    assert page().arguments == ["flower", f"--conf={CONFIG}", "--port=5555"]
    monkeypatch.setattr(listener, "is_free", lambda _port: False)
    assert page().arguments[-1] != "--port=5555"
    assert CONFIG.is_file()


def test_a_folder_called_flower_is_no_flower(monkeypatch, tmp_path):
    (tmp_path / "flower").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in {"flower", *(name for name in sys.modules if name.startswith("flower."))}:
        monkeypatch.setitem(sys.modules, name, None)  # so that the test's end restores what was there, or nothing
        del sys.modules[name]
    assert installed() is False
