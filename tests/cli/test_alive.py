"""``celora alive``: the health check of a container with workers."""

import platform

import pytest

from celora.settings.settings import get_settings

HERE = platform.node()


def test_a_machine_whose_workers_give_signs_is_alive(celora, registered):
    registered()
    registered(name="cpu-1", status="draining")
    registered(name="cpu-2", status="offline", seen_s_ago=9999)
    result = celora("alive")
    assert result.exit_code == 0
    assert result.stdout == f"alive: cpu-0@{HERE}, cpu-1@{HERE}\n"


def test_a_worker_that_is_silent_is_named(celora, registered):
    registered(name="cpu-1")
    registered(seen_s_ago=61)
    result = celora("alive")
    assert result.exit_code == 69
    assert f"cpu-0@{HERE} gave no sign for 60 s" in result.stderr
    assert "cpu-1" not in result.stderr


@pytest.mark.parametrize(("heartbeat_s", "code"), [("1", 69), ("20", 69), ("40", 0)])
def test_a_worker_may_miss_three_heartbeats_and_a_minute(celora, registered, monkeypatch, heartbeat_s, code):
    monkeypatch.setenv("CELORA_HEARTBEAT_S", heartbeat_s)
    get_settings.cache_clear()
    registered(seen_s_ago=90)
    assert celora("alive").exit_code == code


def test_a_machine_without_a_worker_is_not_alive(celora, registered):
    registered(status="offline")
    result = celora("alive")
    assert result.exit_code == 69
    assert f"no worker of {HERE} is online" in result.stderr
