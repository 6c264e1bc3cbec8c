"""What Flower hears of ends that Celery says nothing about, on a real broker."""

import base64
import json
from types import SimpleNamespace

import pytest
import redis
from celery import Celery
from waiting import until

from celora.models.jobs import accept, requests
from celora.models.jobs.expiry import expire_waiting
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Worker
from celora.workers import results
from celora.workers.celery import configuration
from celora.workers.stages.runner import _cut


@pytest.fixture
def heard(valkey, home, monkeypatch):
    """A broker of one's own, and a function that returns the next event that was sent over it."""
    from celora.settings.settings import get_settings

    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app = Celery("celora")
    app.conf.update(configuration(get_settings()))
    monkeypatch.setattr(results, "app", app)
    client = redis.Redis.from_url(valkey)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.psubscribe("*")
    listener.get_message(timeout=5)

    def following():
        def heard():
            message = listener.get_message(timeout=1)
            told = json.loads(message["data"]) if message else {}
            return json.loads(base64.b64decode(told["body"])) if "body" in told else None  # results are published, too

        return until(heard, "nothing was heard")

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
    with database.transaction(Scope.everything) as session:
        at = database.now(session)
        for name, kind in (("control@host", "control"), ("cpu-0@host", "gpu")):
            session.add(Worker(id=name, host="host", kind=kind, pid=1, status="online", registered_at=at,
                               last_seen_at=at))  # fmt: skip
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "tiny", "dataset": "/d.jsonl"}))
    with database.transaction(Scope.everything) as session:
        assert requests.request_cancel(session, "j") == "cancelled"
    assert results.announce(database, "j")
    event = heard()
    assert (event["type"], event["uuid"], event["hostname"]) == ("task-revoked", "j", "control@host")
    assert event["runtime"] >= 0


def test_an_expired_job_is_told_as_revoked_because_it_expired(heard, database):
    with database.transaction(Scope.everything) as session:
        request = {"expires": "2020-01-01T00:00:00+00:00"}
        spec = parse_spec({"base_model": "tiny", "dataset": "/d.jsonl"})
        accept.submit(session, job_id="j", spec=spec, request=request)
    with database.transaction(Scope.everything) as session:
        assert expire_waiting(session) == ["j"]
    assert results.announce(database, "j")
    event = heard()
    assert (event["type"], event["expired"]) == ("task-revoked", True)
    kept = results.app.backend.get_task_meta("j")
    assert (kept["status"], str(kept["result"])) == ("REVOKED", "expired")


@pytest.fixture
def ended(heard, monkeypatch):
    """A record with a job that failed, and whose stored chain can't be called."""
    from celora.models.database import get_database

    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        request = {"callbacks": None, "errbacks": None, "chain": [5], "chord": None}
        spec = parse_spec({"base_model": "b", "dataset": "/d"})
        accept.submit(session, job_id="j", spec=spec, request=request)
        requests.request_cancel(session, "j")
    monkeypatch.setattr(results, "CLAIM_S", -1.0)
    yield database
    database.dispose()


def test_an_end_that_cannot_be_announced_is_given_up_after_some_tries_with_an_event(ended):
    from celora.models import queries

    for _ in range(results.MOST_TRIES):
        with ended.session(Scope.everything) as session:
            assert queries.unannounced(session) == ["j"]
        assert results.announce(ended, "j") is False
    with ended.session(Scope.everything) as session:
        assert queries.unannounced(session) == []
        (event,) = [event for event in queries.events(session, "j") if event["kind"] == "announcement_failed"]
    assert f"in {results.MOST_TRIES} tries" in event["message"]


def test_a_failed_announcement_leaves_no_socket(ended, monkeypatch):
    import psutil

    monkeypatch.setattr(results, "MOST_TRIES", 1000)
    results.announce(ended, "j")
    before = len(psutil.Process().net_connections("tcp"))
    for _ in range(8):
        results.announce(ended, "j")
    assert len(psutil.Process().net_connections("tcp")) <= before + 1
