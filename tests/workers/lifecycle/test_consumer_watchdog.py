"""A deaf worker is told from an idle and from a busy one."""

import pytest
from celery import Celery

from celora.workers.lifecycle.consumer_watchdog import ConsumerWatchdog, _waiting


class Facts:
    """What a watchdog asks for, set by the test."""

    waiting, received, busy = 0, 0, False

    def watchdog(self):
        return ConsumerWatchdog(lambda: self.waiting, lambda: self.received, lambda: self.busy, deaf_after_s=60)


@pytest.fixture
def facts():
    return Facts()


def test_messages_that_wait_beside_an_idle_worker_for_long_mean_that_it_is_deaf(facts):
    watchdog, facts.waiting = facts.watchdog(), 1
    assert not watchdog.is_deaf(0)
    assert not watchdog.is_deaf(59)
    assert watchdog.is_deaf(60)


@pytest.mark.parametrize(
    "sign", [{"waiting": 0}, {"waiting": None}, {"received": 1}, {"busy": True}], ids=lambda sign: next(iter(sign))
)
def test_any_sound_begins_the_wait_anew(facts, sign):
    watchdog, facts.waiting = facts.watchdog(), 1
    watchdog.is_deaf(0)
    for name, value in sign.items():
        setattr(facts, name, value)
    assert not watchdog.is_deaf(50)
    facts.waiting, facts.busy = 1, False
    assert not watchdog.is_deaf(61)
    assert not watchdog.is_deaf(120)
    assert watchdog.is_deaf(121)


def test_what_waits_is_counted_over_all_priorities(valkey):
    app = Celery("elsewhere", broker=valkey)
    for priority in (0, 3, 9):
        app.send_task("anything", queue="gpu.cpu", priority=priority)
    assert _waiting(app, ["gpu.cpu", "gpu.t4"]) == 3
    app.close()


def test_a_broker_that_cannot_be_asked_says_nothing():
    app = Celery("elsewhere", broker="redis://127.0.0.1:1/0")
    app.conf.broker_transport_options = {"max_retries": 0, "socket_connect_timeout": 1}
    assert _waiting(app, ["gpu.cpu"]) is None
    app.close()
