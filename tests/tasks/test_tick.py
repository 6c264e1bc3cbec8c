"""The task of the tick: it sends the canvas of a job that gets a slot, under the ids that its round recorded."""

import json

import pytest

from celora.models import workers
from celora.models.database import get_database
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Status
from celora.models.tables import Job
from celora.services.native import checks
from celora.services.openai import files
from celora.settings.settings import get_settings
from celora.tasks.tick import tick
from celora.workers.celery import app, configuration
from celora.workers.messages import close_thread_backend


@pytest.fixture
def broker(home, valkey, monkeypatch):
    """A running broker that the app sends to."""
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app.conf.update(configuration(get_settings()))
    app._after_fork()  # its pool still leads to an earlier test's broker
    close_thread_backend(app)
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        workers.register(session, "prep@h", host="h", kind="prep", pid=1, queues=["prep"], slots=1)
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
    return database


def test_a_worker_takes_a_prepare_before_the_checks_that_were_sent_earlier(broker):
    assert checks.request_check("check-1")
    assert files.request_check("file-1")
    tick()
    taken = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        while message := channel.basic_get("prep", no_ack=True):
            taken.append(message.headers["task"])
    assert taken == ["celora.prepare", "celora.check_data", "celora.check_file"]


def test_a_round_sends_the_message_of_the_stage_that_it_recorded(broker):
    tick()
    with broker.session(Scope.everything) as session:
        assert session.get_one(Job, "j").status is Status.QUEUED
    with app.connection_for_read() as connection:
        (message,) = connection.channel().client.lrange("prep", 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["id"], headers["root_id"]) == ("celora.prepare", "j.prepare.1.1", "j")
