"""A server that is asked for its facts: a real one, one behind a socket, one that is away."""

import socket as sockets
import threading

import pytest

from celora.doctor.server import client_of, look_at
from celora.errors import UnavailableError
from celora.settings.redaction import without_password
from celora.workers.node.broker_server import find_server
from celora.workers.node.processes import Service


def test_a_broker_behind_a_unix_socket_is_reached_by_kombus_url(tmp_path):
    socket = tmp_path / "broker.sock"
    command = [find_server(), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    service = Service(name="valkey", command=command, environment={}, log=tmp_path / "log")
    service.start(tmp_path)
    try:
        pause = threading.Event()
        while not socket.exists() and service.alive():
            pause.wait(0.02)
        found = look_at(f"redis+socket://{socket}?virtual_host=2")
        assert (found.socket, found.local, found.open) == (str(socket), True, True)
        assert client_of(f"redis+socket://{socket}?virtual_host=2").connection_pool.connection_kwargs["db"] == 2
    finally:
        service.end()


def test_a_password_with_a_slash_is_not_shown():
    assert without_password("redis://me:se/cret@host:1/0") == "redis://host:1/0"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("valkey://:word@host:7000/3", {"host": "host", "port": 7000, "db": 3, "password": "word"}),
        ("rediss://host:1/0?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": "required"}),
        ("redis+socket:///run/b.sock?virtual_host=/4", {"path": "/run/b.sock", "db": 4}),
        ("redis+socket:///run/b.sock", {"path": "/run/b.sock", "db": 0}),
    ],
)
def test_kombus_spellings_of_a_url_are_taken(url, options):
    made = client_of(url).connection_pool.connection_kwargs
    assert {name: made[name] for name in options} == options


def test_a_server_tells_its_facts_and_never_the_password(valkey):
    found = look_at(valkey)
    assert (found.local, found.open, found.weak, found.socket) == (True, False, "", "")
    assert found.info["redis_version"]
    assert found.save is not None
    password = client_of(valkey).connection_pool.connection_kwargs["password"]
    assert password not in repr(found)
    with pytest.raises(UnavailableError, match="refuses us") as refused:
        look_at(valkey.replace(password, "wrong-password"))
    assert "wrong-password" not in str(refused.value)


def test_a_port_on_which_nobody_listens_is_no_server():
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        with pytest.raises(UnavailableError, match="does not answer") as refused:
            look_at(f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
    assert "Start it" in refused.value.hint
