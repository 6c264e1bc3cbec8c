"""What a worker does about what it reads in its own row."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from celora.settings.settings import get_settings
from celora.workers.lifecycle import registration
from celora.workers.lifecycle.cordon import here
from celora.workers.signal_files import Markers


@pytest.fixture
def signals(home, monkeypatch):
    """The signals that the worker sends itself."""
    sent = []
    monkeypatch.setattr(registration.os, "kill", lambda pid, number: sent.append((pid, number)))
    registration._asked.clear()
    yield sent
    registration._asked.clear()
    here.apply("")


def row(**fields):
    plain = {"status": "online", "drain_asked": False, "cordoned": False, "health": "ok", "foreign_bytes": None}
    plain["host_restart_asked"] = False
    return SimpleNamespace(**{**plain, "note": None, **fields})


def test_a_worker_that_is_asked_to_drain_ends_itself_once_and_leaves_word_that_it_is_to_stay_away(signals):
    markers = Markers(get_settings().home / "run")
    for _ in range(3):
        registration._apply(row(drain_asked=True))
    assert signals == [(os.getpid(), signal.SIGTERM)]
    assert markers.left(os.getpid()).exists()


def test_a_worker_that_drains_already_is_left_alone(signals):
    registration._apply(row(status="draining", drain_asked=True, cordoned=True))
    assert signals == []
    assert not here.paused


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"cordoned": True, "note": "Ada"}, "cordoned: Ada"),
        ({"health": "unhealthy", "note": "twice"}, "unhealthy: twice"),
        ({"foreign_bytes": 2**31}, "somebody else holds 2.0 GiB of its device's memory"),
        ({"foreign_bytes": 2**29}, ""),
    ],
)
def test_a_worker_with_an_obstacle_stands_back_until_it_is_gone(signals, fields, why):
    registration._apply(row(**fields))
    assert here.obstacle == why
    registration._apply(row())
    assert not here.paused
    assert signals == []


def test_the_word_that_a_worker_stays_away_is_swept_when_its_process_is_long_gone(home):
    markers = Markers(home / "run")
    dead, alive = markers.left(2**22 + 1), markers.left(os.getpid())
    for marker in (dead, alive):
        markers.set(marker)
    markers.sweep()
    assert dead.exists()
    os.utime(dead, (time.time() - 100,) * 2)
    markers.sweep()
    assert (dead.exists(), alive.exists()) == (False, True)
