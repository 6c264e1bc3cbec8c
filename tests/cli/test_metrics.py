"""``celora metrics``: the figures, once; and served until the program is interrupted."""

import os
import signal
import threading
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from sqlalchemy import select

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Worker
from celora.workers import logging as log_lines
from celora.workers.node.ports import free_port


@pytest.fixture(autouse=True)
def _no_name_stays(monkeypatch):
    monkeypatch.setattr(log_lines, "_process", {})


def test_the_figures_can_be_printed(celora, registered):
    registered()
    result = celora("metrics", "--once")
    assert result.exit_code == 0, result.stderr
    assert "celora_record_up 1.0" in result.stdout
    assert 'celora_workers{gpu_type="cpu",kind="gpu",state="able"} 1.0' in result.stdout
    assert "celora_broker_up 1.0" in result.stdout
    with get_database().session(Scope.everything) as session:
        assert session.scalar(select(Worker.status)) == "online"  # asking changes nothing


def test_the_figures_are_served_until_an_interruption(celora, tables):
    port, served, ended, pause = free_port(), [], threading.Event(), threading.Event()

    def scrape():
        while not (served or ended.is_set()):
            try:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                    served.append(answer.read().decode())
            except URLError:  # it does not listen yet
                pause.wait(0.02)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    client = threading.Thread(target=scrape)
    client.start()
    result = celora("metrics", "--port", port)
    ended.set()
    client.join()
    assert result.exit_code == 0, result.stderr
    assert "celora_record_up 1.0" in served[0]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_a_record_without_tables_is_a_sentence(celora, new_home):
    new_home.mkdir()
    result = celora("metrics", "--once")
    assert result.exit_code == 64
    assert "celora migrate" in result.stderr
