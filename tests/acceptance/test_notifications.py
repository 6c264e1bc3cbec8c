"""Webhooks from the end of a job to a receiver, with processes that are killed: at least once, and in order."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from itertools import groupby

import psutil
import pytest
from hook_server import listening
from live_installation import Running, start, stop
from sqlalchemy import select
from waiting import until

from celora.models.database import Database, now
from celora.models.notifications.notices import Notice, queue_notice
from celora.models.scope.scope import Scope
from celora.models.tables import Delivery
from celora.services.notifications import endpoints
from celora.settings.failpoints import VARIABLE
from celora.settings.settings import get_settings

pytestmark = pytest.mark.slow

ENDS = [Notice.FAILED, Notice.CANCELLED, Notice.DONE]
JOBS = [f"ftjob-{number}" for number in range(6)]
SENDER = "from celora.tasks.notify import notify; notify.run()"
KILLS = ("notify.claimed:kill", "notify.sent:kill", "notify.sent:kill@4", "notify.claimed:kill@3")


@pytest.fixture
def receivers():
    with listening() as opened, listening() as closed:
        yield opened, closed


def send(failpoint=None):
    """Run a round in a process of its own, and return its exit code."""
    environment = {**os.environ, **({VARIABLE: failpoint} if failpoint else {})}
    return subprocess.run([sys.executable, "-c", SENDER], env=environment, check=False).returncode


def events(server):
    """The job, the kind and the id of each event that a receiver got, in order."""
    bodies = [(json.loads(body), headers["webhook-id"]) for _, headers, body in list(server.got)]
    return [(body["data"]["id"], body["type"].rpartition(".")[2], event_id) for body, event_id in bodies]


def pass_time(record):
    """End every claim, and make every open delivery due, as the time between two rounds does."""
    with record.transaction(Scope.everything) as session:
        for row in session.scalars(select(Delivery).where(Delivery.next_at.is_not(None))):
            row.next_at, row.claimed_until = now(session) - timedelta(seconds=1), None


def make_due(record):
    """Make the open deliveries due that no sender has claimed."""
    with record.transaction(Scope.everything) as session:
        free = Delivery.next_at > now(session), Delivery.claimed_until.is_(None)
        for row in session.scalars(select(Delivery).where(*free)):
            row.next_at = now(session)


def open_deliveries(record):
    with record.session(Scope.everything) as session:
        return len(session.scalars(select(Delivery.id).where(Delivery.next_at.is_not(None))).all())


def test_senders_that_are_killed_deliver_each_notice_in_order_and_none_to_a_closed_host(record, receivers, monkeypatch):
    opened, closed = receivers
    monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", f'["{opened.host}", "{closed.host}"]')
    get_settings.cache_clear()
    for server in receivers:
        endpoints.create("default", get_settings(), name="ci", url=f"{server.url}/200", notices=ENDS)
    monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", f'["{opened.host}"]')  # the operator closes the other host again
    get_settings.cache_clear()
    with record.transaction(Scope.everything) as session:
        for notice in ENDS:
            for job_id in JOBS:
                queue_notice(session, notice, "default", job_id)
    for failpoint in KILLS:
        assert send(failpoint) == -signal.SIGKILL
        pass_time(record)
    assert send() == 0
    got = events(opened)
    for job_id in JOBS:
        types = [kind for job, kind, _ in got if job == job_id]
        assert [kind for kind, _ in groupby(types)] == ["failed", "cancelled", "succeeded"]
    assert len({event_id for _, _, event_id in got}) == len(ENDS) * len(JOBS) < len(got)
    assert closed.got == []
    assert open_deliveries(record) == len(ENDS) * len(JOBS), "those to the closed host are tried for a day"


@pytest.fixture
def installation(receivers, tmp_path):
    """A whole installation that may notify the open host, and knows endpoints of both."""
    opened, closed = receivers
    hosts = {"CELORA_WEBHOOK_HOSTS": f'["{opened.host}"]', "CELORA_ANSWER_BYTES": "0"}
    installation, patch = start(tmp_path / "home", hosts, api=True, spare=False)
    try:
        both = installation.settings.model_copy(update={"webhook_hosts": [opened.host, closed.host]})
        for server in receivers:
            endpoints.create("default", both, name="ci", url=f"{server.url}/200", notices=ENDS)
        yield installation
    finally:
        stop(installation, patch)


def kill_sender(installation):
    """Kill the processes of the control worker's pool: one of them sends."""
    for child in psutil.Process(Running(installation).service("control").process.pid).children(recursive=True):
        child.kill()


def kill_service(name):
    def kill(installation):
        process = Running(installation).service(name).process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    return kill


def kill_broker(installation):
    installation._broker._process.kill()
    installation._broker._process.wait()


VICTIMS = {"sender": kill_sender, **{name: kill_service(name) for name in ("control", "beat", "api")},
           "broker": kill_broker}  # fmt: skip


@pytest.mark.timeout(600)
def test_whatever_process_dies_in_the_middle_of_a_delivery_each_arrives_in_order(installation, receivers):
    opened, closed = receivers
    record = Database(installation.settings.database)

    def supervised(condition):
        """Keep the processes running, and spare the pause before the next try, until a condition is met."""

        def look():
            installation.node.services.restart_ended()
            installation._broker.restart_if_ended()
            make_due(record)
            return condition()

        until(look, Running(installation).logs, poll_s=0.1)

    for victim, kill in VICTIMS.items():
        jobs = [f"{victim}-{number}" for number in range(2)]
        opened.go_on.clear()
        with record.transaction(Scope.everything) as session:
            for notice in ENDS:
                for job_id in jobs:
                    queue_notice(session, notice, "default", job_id)
        supervised(lambda jobs=jobs: {job for job, _, _ in events(opened)} & set(jobs))  # one waits for its answer
        kill(installation)
        opened.go_on.set()
        pass_time(record)
        supervised(lambda jobs=jobs: all(ended(record, job_id) for job_id in jobs))
        for job_id in jobs:
            types = [kind for job, kind, _ in events(opened) if job == job_id]
            assert [kind for kind, _ in groupby(types)] == ["failed", "cancelled", "succeeded"], victim
    assert len({event_id for _, _, event_id in events(opened)}) == len(ENDS) * 2 * len(VICTIMS)
    assert closed.got == []
    record.dispose()


def ended(record, job_id):
    """Whether the deliveries about a job to the open host have all arrived; those to the closed one stay open."""
    with record.session(Scope.everything) as session:
        outcomes = session.scalars(select(Delivery.outcome).where(Delivery.subject == job_id)).all()
    return outcomes.count("delivered") == len(ENDS)
