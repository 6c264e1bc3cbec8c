"""An installation of its own for each test: an empty home, a SQLite record; one broker for all."""

import json
import logging
import os
import platform
import shutil
from datetime import timedelta

import pytest
from competition import numbered
from records import empty
from typer.testing import CliRunner

from celora.cli.app import app as application
from celora.models import database as databases
from celora.models import workers
from celora.models.database import get_database, now
from celora.models.scope.scope import Scope
from celora.settings.settings import get_settings
from celora.workers.celery import app as celery_app
from celora.workers.celery import configuration
from celora.workers.node.embedded_broker import EmbeddedBroker


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    server = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server.operator_url
    server.stop()


@pytest.fixture(scope="session")
def _shared_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("installation") / "home"
    home.mkdir(mode=0o700)  # as every command makes it; a test's own files below it would not
    return home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, broker, _shared_home):
    """An installation without jobs or files; its record keeps its tables from test to test, which saves a migration."""
    _enter(_shared_home, broker, tmp_path, monkeypatch)
    yield _shared_home
    _empty(_shared_home)
    get_settings.cache_clear()


@pytest.fixture
def new_home(tmp_path, monkeypatch, broker, home):
    """In place of ``home``: an installation that nobody has used yet, without a record."""
    _enter(tmp_path / "home", broker, tmp_path, monkeypatch)
    yield tmp_path / "home"
    get_database().dispose()
    _enter(home, broker, tmp_path, monkeypatch)


def _enter(folder, broker, work, monkeypatch):
    monkeypatch.setenv("CELORA_HOME", str(folder))
    monkeypatch.setenv("CELORA_BROKER_URL", broker)
    unset = ("CELORA_RESULT_BACKEND", "CELORA_DATABASE_URL", "CELORA_ARTIFACT_ROOT", "CELORA_SERVER", "CELORA_API_KEY")
    for name in unset:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(work)
    get_settings.cache_clear()
    celery_app.conf.update(configuration(get_settings()))


def _empty(folder):
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not path.name.startswith("celora.db"):
            path.unlink()
    record = databases._databases.get((os.getpid(), f"sqlite:///{folder}/celora.db"))
    if record is not None and (folder / "celora.db").exists():
        empty(record)


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


@pytest.fixture
def tables(home):
    """The record's tables, for what is written without a command."""
    home.mkdir(parents=True, exist_ok=True)
    get_database().migrate()


@pytest.fixture
def pair(tables, contestant, celora):
    """``first`` is champion bot; ``second`` was measured beside it and is not."""
    contestant("first", {"base": numbered(0), "tuned": numbered(6, "first")})
    assert celora("champion", "promote", "bot", "first", "--reason", "the first").exit_code == 0
    met = {"name": "bot", "version": 1, "job": "first", "compared": True, "reason": ""}
    answers = {"base": numbered(0), "tuned": numbered(20, "second"), "champion": numbered(6, "first")}
    contestant("second", answers, met=met, champion="bot")


@pytest.fixture
def registered(tables):
    """Registers a worker of this machine that was last seen so many seconds ago."""

    def register(*, seen_s_ago=0.0, status="online", name="cpu-0"):
        with get_database().transaction(Scope.everything) as session:
            worker_id = f"{name}@{platform.node()}"
            row = workers.register(session, worker_id, host=platform.node(), kind="gpu", gpu_type="cpu", pid=1)
            row.last_seen_at, row.status = now(session) - timedelta(seconds=seen_s_ago), status

    return register


@pytest.fixture(autouse=True)
def _no_handler_stays():
    """A command that sets up logging does so on the stream of its own test, which is closed afterwards."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
