"""JSON only, from wherever Celery is configured; and in production no server without a password."""

import os
import subprocess
import sys

import pytest
from celery import Celery

from celora.errors import SettingsError
from celora.settings.settings import get_settings
from celora.workers import app_checks
from celora.workers.celery import App, configuration


@pytest.fixture
def app(home):
    made = App("celora", set_as_current=False)
    made.conf.update(configuration(get_settings()))
    return made


def test_the_app_as_it_is_speaks_json_alone(app):
    app_checks.require_safe(app)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("accept_content", ["json", "pickle"]),
        ("accept_content", ["application/x-python-serialize"]),
        ("accept_content", []),
        ("result_accept_content", ["yaml"]),
        ("task_serializer", "pickle"),
        ("result_serializer", "msgpack"),
        ("event_serializer", "yaml"),
    ],
)
def test_each_setting_that_lets_in_more_is_refused_by_name(app, setting, value):
    app.conf[setting] = value
    with pytest.raises(SettingsError, match=f"Celery's {setting} is .*JSON alone"):
        app_checks.require_safe(app)


def _nothing():
    """A task's function."""


def test_a_task_with_a_serializer_of_its_own_is_refused(app):
    app.task(name="own", serializer="pickle", shared=False)(_nothing)
    app.finalize()
    with pytest.raises(SettingsError, match="serializer of the task own is pickle"):
        app_checks.require_safe(app)


def test_no_connection_is_made_by_an_app_that_was_changed(app):
    app.conf.accept_content = ["pickle"]
    for connect in (app.connection_for_read, app.connection_for_write, app.connection):
        with pytest.raises(SettingsError, match="JSON alone"):
            connect()
    with pytest.raises(SettingsError, match="JSON alone"):
        app.send_task("celora.tick")


def test_a_configuration_module_from_outside_changes_nothing(app):
    app.config_from_object({"accept_content": ["pickle"], "task_serializer": "pickle"}, force=True)
    assert (app.conf.accept_content, app.conf.task_serializer) == (["json"], "json")


@pytest.mark.parametrize("variable", ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_RESULT_BACKEND"])
def test_production_judges_the_servers_in_force_also_those_that_celerys_own_environment_names(
    app, monkeypatch, variable
):
    monkeypatch.setenv("CELORA_PROFILE", "production")
    get_settings.cache_clear()
    good = "redis://:k3-Vw9sQp2xLm8Zr@broker/0"
    app.conf.update(broker_url=good, result_backend=good)
    app_checks.require_safe(app)
    monkeypatch.setenv(variable, "redis://broker/0")
    with pytest.raises(SettingsError, match="the broker or result backend at redis://broker has no password"):
        app.connection_for_write()


CHANGED = "from celora.workers.celery import app\napp.conf.accept_content = ['json', 'pickle']\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["-A", "changed", "beat"],
        ["-A", "celora.workers", "worker", "-Q", "celora", "--", "task.serializer=pickle"],
    ],
    ids=["beat, by a module", "a worker, by words behind --"],
)
def test_a_program_that_was_changed_does_not_start_and_says_why_in_one_sentence(words, home):
    (home / "changed.py").write_text(CHANGED)
    done = subprocess.run(
        [sys.executable, "-m", "celery", *words], cwd=home, env={**os.environ, "CELORA_HOME": str(home)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "JSON alone" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_application_is_none_of_our_business():
    assert isinstance(App("x", set_as_current=False), Celery)
    Celery("theirs", broker="memory://", set_as_current=False).connection_for_write().close()
