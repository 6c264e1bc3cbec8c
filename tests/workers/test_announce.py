"""What Flower hears of ends that Celery says nothing about, on a real broker."""

import base64
import json
import time
from types import SimpleNamespace

import pytest
import redis
from celery import Celery

from celora.models import transitions
from celora.models.spec import parse_spec
from celora.models.tables import Worker
from celora.workers import announce
from celora.workers.carry import _cut
from celora.workers.celery import configuration


@pytest.fixture
def heard(valkey, home, monkeypatch):
    """A broker of one's own, and a function that returns the next event that was sent over it."""
    from celora.settings.settings import get_settings

    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app = Celery("celora")
    app.conf.update(configuration(get_settings()))
    monkeypatch.setattr(announce, "app", app)
    client = redis.Redis.from_url(valkey)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe("*")
    listener.get_message(timeout=5)

    def following():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            message = listener.get_message(timeout=1)
            if message and "body" in (told := json.loads(message["data"])):  # results are published, too
                return json.loads(base64.b64decode(told["body"]))
        raise AssertionError("nothing was heard")

    yield following
    listener.close()
    client.close()
    app.close()


def request(uuid):
    return SimpleNamespace(id=uuid, hostname="cpu-0@host", chain=["evaluate"])


def test_a_stage_that_is_cut_is_not_left_running_in_flower(heard):
    stage = request("j.train.1.2")
    _cut(stage)
    event = heard()
    assert (event["type"], event["uuid"], event["hostname"]) == ("task-revoked", "j.train.1.2", "cpu-0@host")
    assert stage.chain is None


def test_a_job_that_was_given_back_is_retried_in_flower_with_its_step(heard):
    _cut(request("j.train.1.2"), "task-retried", exception="given back at step 12", traceback="")
    event = heard()
    assert (event["type"], event["exception"]) == ("task-retried", "given back at step 12")


def test_a_jobs_end_is_told_in_a_control_workers_name_with_its_whole_time(heard, database):
    with database.transaction() as session:
        at = database.now(session)
        for name, kind in (("control@host", "control"), ("cpu-0@host", "gpu")):
            session.add(Worker(id=name, host="host", kind=kind, pid=1, status="online", registered_at=at,
                               last_seen_at=at))  # fmt: skip
        transitions.submit(session, job_id="j", spec=parse_spec({"base_model": "tiny", "dataset": "/d.jsonl"}))
    with database.transaction() as session:
        assert transitions.request_cancel(session, "j") == "cancelled"
    assert announce.announce(database, "j")
    event = heard()
    assert (event["type"], event["uuid"], event["hostname"]) == ("task-revoked", "j", "control@host")
    assert event["runtime"] >= 0
