"""The task runs a round, and beat asks for it at least every ten seconds."""

from celora.settings.settings import load_settings
from celora.tasks.notify import notify
from celora.workers.celery import configuration


def test_a_round_without_receivers_does_nothing(record):
    assert notify.run() is None


def test_beat_asks_for_a_round_often_enough(home):
    for tick_s, wanted in ((30, 10.0), (1, 1.0)):
        assert configuration(load_settings(tick_s=tick_s))["beat_schedule"]["notify"]["schedule"] == wanted
