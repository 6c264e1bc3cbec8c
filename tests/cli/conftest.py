"""An installation of its own for each test: an empty home, a SQLite record; one broker for all."""

import json
import logging

import pytest
from typer.testing import CliRunner

from celora.cli.app import app as application
from celora.models.database import get_database
from celora.settings.settings import get_settings
from celora.workers.broker import EmbeddedBroker
from celora.workers.celery import app as celery_app
from celora.workers.celery import configuration


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    server = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, broker):
    monkeypatch.setenv("CELORA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CELORA_BROKER_URL", broker)
    for name in ("CELORA_RESULT_BACKEND", "CELORA_DATABASE_URL", "CELORA_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    celery_app.conf.update(configuration(get_settings()))
    yield tmp_path / "home"
    get_database().dispose()
    get_settings.cache_clear()


@pytest.fixture
def celora():
    """Runs a command; its result has ``exit_code``, ``stdout``, ``stderr``, and ``json()``."""
    runner = CliRunner()

    def run(*words, stdin=None):
        result = runner.invoke(application, [str(word) for word in words], input=stdin, prog_name="celora")
        result.json = lambda: json.loads(result.stdout)
        return result

    return run


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n', encoding="utf-8")
    return path


@pytest.fixture
def job(celora, rows):
    """The id of a job that waits."""
    result = celora("submit", "--base-model", "smollm2-135m-instruct", "--dataset", rows, "--json")
    assert result.exit_code == 0, result.stderr
    return result.json()["id"]


@pytest.fixture(autouse=True)
def _no_handler_stays():
    """A command that sets up logging does so on the stream of its own test, which is closed afterwards."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
