"""The HTTP API of the home in force on a real socket: on a thread of this process, or as the command ``celora api``."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest
import uvicorn
from waiting import until


@contextmanager
def serving(app="celora.api.app:create_app"):
    """Serves an application's factory on a free port of loopback and yields its URL."""
    from celora.api.server import options
    from celora.settings.settings import get_settings

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, **{**options(get_settings()), "timeout_graceful_shutdown": 5}))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def served(home):
    """The URL of an API of this home."""
    with serving() as url:
        yield url


@pytest.fixture
def served_port(record):
    """The port of an API with this record."""
    with serving() as url:
        yield urlsplit(url).port


@contextmanager
def as_command(environment=None):
    """Serves by ``celora api`` in a process of its own; yields the port and the process."""
    from celora.workers.node.ports import free_port

    port = free_port()
    command = [sys.executable, "-m", "celora.cli", "api", "--port", str(port)]
    with tempfile.TemporaryFile("w+b") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        try:
            until(lambda: process.poll() is not None or _is_ready(port))
            said.seek(0)
            assert process.poll() is None, said.read().decode()
            yield port, process
        finally:
            process.kill()
            process.wait()


def _is_ready(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False


def answer_on(connection):
    """Read an answer from a socket: its status, its headers and its body, as JSON if it is JSON."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, response.headers, json.loads(body) if is_json else body


def exchange(port, sent):
    """Send bytes as they are on a connection of their own, and read the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        return answer_on(connection)


def request(method, path, body=b"", **headers):
    """Write a request; a header that is given replaces the usual one, and None leaves it away."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    known = {"host": "127.0.0.1", "content-length": str(len(body)), **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in known.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
