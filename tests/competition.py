"""Jobs that compete for the champion ``bot`` in an installation with a broker; their answers decide."""

import json

import pytest

from celora.models import champions, queries
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.settings.settings import get_settings

ROWS = 20


@pytest.fixture(scope="session")
def own_broker(tmp_path_factory):
    """The URL of a Valkey that the tests of a session share."""
    from celora.workers.node.embedded_broker import EmbeddedBroker

    server = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server.operator_url
    server.stop()


@pytest.fixture
def competition(home, monkeypatch, own_broker):
    """An installation with a record and a broker, and no worker."""
    from celora.workers.celery import app, configuration

    monkeypatch.setenv("CELORA_BROKER_URL", own_broker)
    get_settings.cache_clear()
    get_database().migrate()
    app.conf.update(configuration(get_settings()))
    return home


@pytest.fixture
def challenger(competition, contestant):
    """Makes a job that competes for ``bot`` and is judged as it is published."""
    from celora.services import challenge

    def make(job_id, tuned, champion=None, met=None, **fields):
        answers = {"base": right(0), "tuned": right(tuned)} | ({"champion": right(champion)} if champion else {})
        known = {"name": "bot", "version": 1, "job": met, "compared": champion is not None, "reason": ""}
        contestant(job_id, answers, met=known, challenge=challenge.challenge, champion="bot", **fields)
        challenge.conclude(job_id)
        return outcome(job_id)

    return make


def right(count):
    """Answers of which so many are right."""
    return [f"r{i}" if i < count else "wrong" for i in range(ROWS)]


def numbered(count, wrong="wrong", rows=24):
    """Answers of which so many are right, and every wrong one is another."""
    return [f"r{i}" if i < count else f"{wrong} {i}" for i in range(rows)]


def outcome(job_id):
    """The gate's decision about a job."""
    with get_database().session(Scope.everything) as session:
        return queries.find(session, job_id).summary["champion"]


def pointer():
    """The job and the version of the champion; None without one."""
    with get_database().session(Scope.everything) as session:
        found = champions.find(session, "default", "bot")
        return (found.job_id, found.version) if found else None


def alias():
    """The champion's alias; None without one."""
    path = get_settings().home / "artifacts" / "champions" / "default" / "bot.json"
    return json.loads(path.read_text()) if path.exists() else None
