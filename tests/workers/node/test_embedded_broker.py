"""The embedded broker: a real server, guarded, durable, and gone when it is stopped."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from waiting import until

from celora.errors import UnavailableError
from celora.workers.node import embedded_broker
from celora.workers.node.embedded_broker import EmbeddedBroker


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
    for name in ("valkey.conf", "address", "passwords"):
        assert stat.S_IMODE((tmp_path / "broker" / name).stat().st_mode) == 0o600
    command = Path(f"/proc/{server._process.pid}/cmdline").read_text()
    for url in (server.url, server.worker_url, server.operator_url):
        assert urlsplit(url).password not in command


def test_what_was_queued_survives_a_kill_and_the_address_stays(server, tmp_path):
    with redis.Redis.from_url(server.url) as client:
        client.lpush("queue", "message")
        client.execute_command("WAITAOF", 1, 0, 2000)
    urls = (server.url, server.worker_url, server.operator_url)
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    server.start()
    assert (server.url, server.worker_url, server.operator_url) == urls
    with redis.Redis.from_url(server.url) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_it_never_evicts(server):
    with redis.Redis.from_url(server.operator_url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_a_server_that_died_is_started_again_and_one_that_was_stopped_is_not(server):
    url = server.url
    server._process.kill()
    server._process.wait()
    server.restart_if_ended()
    assert server.alive()
    assert server.url == url
    server.stop()
    server.restart_if_ended()
    assert not server.alive()


LEAVES_ITS_SERVER = """
import os, signal, sys
from pathlib import Path
from celora.workers.node import embedded_broker
if "orphan" in sys.argv:
    embedded_broker.end_with_parent = lambda: None
one = embedded_broker.EmbeddedBroker(Path(sys.argv[1]))
one.start()
print(one._process.pid, one.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_parent(folder, *words):
    """Process id and URL of a server whose parent was killed right after its start."""
    command = [sys.executable, "-c", LEAVES_ITS_SERVER, str(folder), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    pid, url = done.stdout.decode().split()
    return int(pid), url


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children of a dead parent on Linux only")
def test_it_ends_when_its_parent_is_killed(tmp_path):
    pid, _ = killed_parent(tmp_path / "broker")
    until(lambda: ended(pid))


def test_a_start_ends_the_server_that_an_earlier_one_left_and_keeps_what_it_had(tmp_path, caplog):
    pid, url = killed_parent(tmp_path / "broker", "orphan")
    with redis.Redis.from_url(url) as client:
        client.lpush("queue", "message")
    assert not ended(pid)
    one = EmbeddedBroker(tmp_path / "broker")
    one.start()
    try:
        assert ended(pid)
        assert one.url == url
        assert "an earlier start left behind" in caplog.text
        with redis.Redis.from_url(one.url) as client:
            assert client.lrange("queue", 0, -1) == [b"message"]
    finally:
        one.stop()


def test_two_servers_never_have_the_same_files_open(tmp_path, monkeypatch):
    """The address is lost, so the first server can't be found by its password."""
    monkeypatch.setattr(embedded_broker, "ORPHAN_S", 0.5)
    pid, _ = killed_parent(tmp_path / "broker", "orphan")
    (tmp_path / "broker" / "address").unlink()
    try:
        with pytest.raises(UnavailableError, match="another broker has the files"):
            EmbeddedBroker(tmp_path / "broker").start()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_another_program_on_the_remembered_port_is_left_alone(tmp_path):
    (tmp_path / "broker").mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (tmp_path / "broker" / "address").write_text(f"{port} secret")
        one = EmbeddedBroker(tmp_path / "broker")
        one.start()
        one.stop()
        assert f":{port}/" not in one.url


def test_a_tail_that_was_cut_anywhere_is_repaired_and_told(server, tmp_path, caplog):
    """As after a power failure: the file ends at some multiple of 512 bytes."""
    with redis.Redis.from_url(server.url) as client:
        for number in range(60):
            client.lpush("queue", f"{number}" * 30)
    server.stop()
    (tail,) = (tmp_path / "broker" / "appendonlydir").glob("*.incr.aof")
    whole = tail.read_bytes()
    for end in range(len(whole) // 512 * 512, 0, -512):
        tail.write_bytes(whole[:end])
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.llen("queue") < 60
        server.stop()
    assert "cut and is repaired" in caplog.text


def test_files_that_cannot_be_read_are_set_aside_and_it_is_told(server, tmp_path, caplog):
    server.stop()
    (manifest,) = (tmp_path / "broker" / "appendonlydir").glob("*.manifest")
    manifest.write_bytes(b"\0" * 30)
    server.start()
    assert server.alive()
    assert len(list((tmp_path / "broker").glob("appendonlydir.damaged-*"))) == 1
    assert "is set aside as" in caplog.text
