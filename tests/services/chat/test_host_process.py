import os
import socket
from pathlib import Path

import pytest
from waiting import until

from celora.services.chat import host_process
from celora.settings.settings import get_settings
from celora.storage.unix_socket import short_path
from celora.workers.node.answer_process import socket_of


@pytest.fixture
def started(home):
    """Starts the host of this home; it loads no library before its first request."""
    yield lambda: host_process.start(get_settings())
    host_process.stop()


def is_there():
    with socket.socket(socket.AF_UNIX) as client:
        try:
            with short_path(socket_of(get_settings())) as place:
                client.connect(place)
        except OSError:
            return False
        return True


def test_one_host_is_started_and_ends_with_its_owner(started, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    assert [started(), started()] == [True, False]
    until(is_there)
    process = host_process._process
    environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    variables = dict(one.split(b"=", 1) for one in environment.split(b"\0") if one)
    assert b"HF_TOKEN" not in variables
    assert (variables[b"HF_HUB_OFFLINE"], variables[b"CUDA_VISIBLE_DEVICES"]) == (b"1", b"")
    assert os.getsid(process.pid) == process.pid
    host_process.stop()
    assert process.returncode == 0
    assert not is_there()


def test_another_host_is_started_after_the_death_of_the_first(started):
    started()
    until(is_there)
    first = host_process._process
    first.kill()
    first.wait()
    assert started()
    until(is_there)
    assert host_process._process.pid != first.pid


def test_a_machine_without_the_libraries_answers_nothing(monkeypatch):
    assert host_process.can_answer()
    monkeypatch.setattr(host_process, "require_training", _missing)
    assert not host_process.can_answer()


def _missing():
    from celora.errors import UnavailableError

    raise UnavailableError("torch is not installed.")
