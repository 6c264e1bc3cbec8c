"""Beat refuses an unsafe app with a sentence, and prints no banner among lines of JSON."""

import platform
from datetime import timedelta

import pytest
from celery import Celery
from celery.apps import beat as celerys

from celora.settings.settings import get_settings
from celora.workers import logging
from celora.workers.celery import App, configuration
from celora.workers.lifecycle.beat import Scheduler


@pytest.fixture
def beat(home, monkeypatch):
    """Makes a beat whose ticking is a note of its being reached; Celery's own would tick for ever."""

    def make(**settings):
        app = App("celora", set_as_current=False)
        app.conf.update(configuration(get_settings()))
        app.conf.update(settings)
        made = app.Beat()
        monkeypatch.setattr(celerys.Beat, "run", lambda self: ticking.append(self.quiet))
        return made

    ticking = make.ticking = []
    monkeypatch.setattr(logging, "_process", {})
    return make


def test_an_unsafe_app_ends_in_a_sentence_before_it_ticks(beat):
    with pytest.raises(SystemExit, match=r"celora: Celery's accept_content is .*JSON alone"):
        beat(accept_content=["json", "pickle"]).run()
    assert beat.ticking == []


@pytest.mark.parametrize(("form", "quiet"), [("text", False), ("json", True)])
def test_the_banner_is_left_out_where_logs_are_json(beat, monkeypatch, form, quiet):
    monkeypatch.setenv("CELORA_LOG_FORMAT", form)
    get_settings.cache_clear()
    beat().run()
    assert [bool(each) for each in beat.ticking] == [quiet]
    assert logging._process == {"worker": f"beat@{platform.node()}"}


def test_a_clock_that_was_set_back_leaves_no_entry_waiting_for_the_future(tmp_path):
    with Celery("x", broker="memory://") as app:
        app.conf.beat_schedule = {"tick": {"task": "t", "schedule": 30.0}, "sweep": {"task": "s", "schedule": 3600.0}}
        scheduler = Scheduler(app=app, schedule_filename=str(tmp_path / "schedule"))
        for entry in scheduler.schedule.values():
            entry.last_run_at = app.now() + timedelta(days=1)
        assert scheduler.tick() <= 30
        assert all(entry.last_run_at <= app.now() for entry in scheduler.schedule.values())
        scheduler.close()
