"""The processes of a machine: which are started with which words, awaited, watched and stopped.

A small program stands in the place of Python, since what is held here are the command lines and the watch.
"""

import os
import sys

import pytest
from fake_nvml import FakeNvml

from celora.errors import UnavailableError
from celora.models import workers
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.settings.settings import load_settings
from celora.workers import gpu
from celora.workers.node import node as module
from celora.workers.node.api_process import ApiListener
from celora.workers.node.node import Node, environment


@pytest.fixture
def make(home, monkeypatch, tmp_path):
    """Makes a node whose processes sleep until they are stopped, or run the given shell line."""
    made = []

    def node(line="exec sleep 600", **options):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        made.append(Node(load_settings(broker_url="redis://:word@host/0", grace_s=5), **options))
        return made[-1]

    monkeypatch.setattr(gpu, "_nvml", lambda: None)
    umask = os.umask(0o022)
    yield node
    os.umask(umask)
    for one in made:
        one.services.stop(0)


def words(node):
    """The words behind ``celery -A celora.workers`` by process."""
    return {service.name: " ".join(service.command[5:]) for service in node.services.all}


def test_a_machine_without_a_gpu_gets_a_worker_for_its_cpu_and_one_that_prepares(make):
    node = make()
    node.start()
    found = words(node)
    assert list(found) == ["prep", "cpu-0"]
    assert found["prep"].startswith("worker -n prep@%h -Q prep -c 1 ")
    assert found["cpu-0"].startswith("worker --gpu 0 ")
    assert all("--disable-prefetch" in each for each in found.values())
    assert node.lines == ["worker prep", "worker cpu-0"]
    assert all(service.alive() for service in node.services.all)


def test_each_gpu_gets_its_worker(make, monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", FakeNvml)
    node = make(prep=False)
    node.start()
    assert {name: line[:14] for name, line in words(node).items()} == {
        "h100-0": "worker --gpu 0", "a10g-1": "worker --gpu 1",
    }  # fmt: skip


def test_a_whole_installation_has_a_control_worker_and_beat_too(make, home):
    node = make(control=True)
    node.start()
    assert list(words(node)) == ["control", "beat", "prep", "cpu-0"]
    assert f"--schedule {home}/run/beat-schedule" in words(node)["beat"]


def test_flower_gets_its_login_by_the_environment_or_a_line_says_that_it_is_missing(make, monkeypatch):
    node = make(prep=False, flower=True)
    node.start()
    (_, flower) = node.services.all
    assert flower.command[5] == "flower"
    login = flower.environment["CELORA_FLOWER_AUTH"]
    assert login not in " ".join(flower.command)
    monkeypatch.setattr(module, "installed", lambda: False)
    node = make(prep=False, flower=True)
    node.start()
    assert len(node.services.all) == 1
    assert node.lines[-1] == "Flower is not installed (pip install 'celora[flower]')"


def test_the_answer_host_stands_beside_the_api_without_a_line_and_without_secrets(make, home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    node = make(prep=False, api=ApiListener())
    node.start()
    (_, api, host) = node.services.all
    assert (api.name, host.name, host.log) == ("api", "answer-host", home / "logs" / "answer-host.log")
    assert host.command[1:3] == ["-m", "celora.tuning.answering"]
    assert "--stay" in host.command
    assert "HF_TOKEN" not in host.environment
    assert node.lines == ["worker cpu-0"]


def test_no_answer_host_stands_where_no_chats_are_answered(make, monkeypatch):
    monkeypatch.setenv("CELORA_ANSWER_BYTES", "0")
    node = make(prep=False, api=ApiListener())
    node.start()
    assert [service.name for service in node.services.all] == ["cpu-0", "api"]


def test_every_process_is_of_this_installation(home):
    made = environment(load_settings(broker_url="redis://:word@host/0"))
    assert made == {
        "CELORA_HOME": str(home), "CELORA_BROKER_URL": "redis://:word@host/0",
        "CELORA_RESULT_BACKEND": "redis://:word@host/0", "CELORA_DATABASE_URL": f"sqlite:///{home}/celora.db",
    }  # fmt: skip


def register(database, pid):
    with database.transaction(Scope.everything) as session:
        workers.register(session, f"w-{pid}@here", host="here", kind="prep", pid=pid, queues=["prep"])


def test_it_is_ready_when_every_worker_has_registered(make):
    database = get_database()
    database.migrate()
    node = make()
    node.start()
    for service in node.services.all:
        register(database, service.process.pid)
    node.ready(database, timeout_s=0.0)


def test_a_worker_that_ended_or_does_not_register_is_told_with_its_log(make, home):
    database = get_database()
    database.migrate()
    node = make("exit 3", prep=False)
    node.start()
    with pytest.raises(UnavailableError, match="cpu-0 did not come up") as told:
        node.ready(database)
    assert told.value.hint == f"Its log is {home}/logs/cpu-0.log."
    node = make(prep=False)
    node.start()
    with pytest.raises(UnavailableError, match="cpu-0 did not come up"):
        node.ready(database, timeout_s=0.0)


def test_the_watch_looks_at_what_is_beside_it_until_it_is_stopped(make, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 0.0)
    node, looks = make(prep=False), []
    node.start()
    node.watch(lambda: len(looks) == 3, lambda: looks.append(1))
    node.stop()
    assert len(looks) == 3
    assert [service.process.returncode for service in node.services.all] == [-15]


def test_a_machine_without_the_training_libraries_starts_nothing(make, monkeypatch):
    def missing():
        raise UnavailableError("this machine cannot prepare or train: torch not installed.")

    monkeypatch.setattr(module, "require_training", missing)
    node = make(control=True)
    with pytest.raises(UnavailableError, match="torch not installed"):
        node.start()
    assert node.services.all == []
