"""Two beats and two control workers, killed and started again: every run of a schedule once, and none missed.

The jobs themselves are ended by this test as soon as they are accepted (a cancel: the record's own way to be over at
once); `benchmarks/schedules.py` tells the same story with training.
"""

import json
import os
import signal
import sys
import time

import pytest

from celora.models import queries
from celora.models.database import Database
from celora.models.jobs import requests
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.models.tables.schedule import Schedule, ScheduleRun
from celora.scheduling.cron import between
from celora.services import datasets, schedules
from celora.settings.settings import get_settings, load_settings
from celora.workers.node.node import Node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SLOTS = 20
SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq"}
KILLED = {"CELORA_FAILPOINT": "slots.written:kill@3,slots.committed:kill@6"}
"""Beside the whole worker, single processes of one die at the two worst moments."""


@pytest.fixture
def node(home, valkey, monkeypatch):
    """Two control workers and two beats, nothing else; whatever dies is started again."""
    for name, value in {"BROKER_URL": valkey, "TICK_S": "1", "REAPER_S": "5", "HEARTBEAT_S": "1"}.items():
        monkeypatch.setenv(f"CELORA_{name}", value)
    get_settings.cache_clear()
    settings = load_settings(running=False)
    database = Database(settings.database)
    database.migrate()
    node = Node(settings, prep=False)
    for letter in "ab":
        options = ["worker", "-n", f"control-{letter}@%h", "-Q", "celora", "-c", "1", "--without-gossip"]
        node._celery(f"control-{letter}", [*options, "--without-mingle"], KILLED if letter == "b" else None)
        node._celery(f"beat-{letter}", ["beat", "--schedule", str(home / f"beat-{letter}"), "--pidfile", ""])
    node.ready(database)
    yield node
    node.stop()
    database.dispose()


def kill(node, *names):
    for service in node.services.all:
        if service.name in names:
            os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()


def grow(path, number):
    with path.open("a") as file:
        file.write(json.dumps({"prompt": f"q{number}", "completion": f"a{number}"}) + "\n")
    return datasets.add(path, name="faq")


@pytest.mark.skipif(sys.platform != "linux", reason="process groups are ended through the kernel")
def test_every_run_gets_one_job_whoever_dies(node, home):
    database = Database(node.settings.database)
    grow(home / "faq.jsonl", 0)
    schedules.add("often", SPEC, every="1s", overlap="queue")
    ended, deadline = 0, time.monotonic() + 240
    while ended < SLOTS:
        assert time.monotonic() < deadline, logs(node)
        node.services.restart_ended()
        if over(database):
            ended += 1
            if ended == SLOTS // 3:
                kill(node, "beat-a", "control-a")
            if ended % 5 == 0:
                grow(home / "faq.jsonl", ended)
        time.sleep(0.05)
    with database.transaction(Scope.everything) as session:  # as a pause does it, but runs that wait go on
        schedule = session.query(Schedule).one()
        schedule.next_slot = None
        rhythm, created, last = schedules.rhythm_of(schedule), schedule.created_at, schedule.last_slot
    while any(row["outcome"] == "waiting" for row in schedules.show("often", limit=1000)["slots"]):
        assert time.monotonic() < deadline, logs(node)
        node.services.restart_ended()
        over(database)
        time.sleep(0.05)
    assert all(service.failures >= 1 for service in node.services.all if service.name.endswith("-a"))
    assert "signal 9" in (node.settings.logs / "control-b.log").read_text()
    with database.session(Scope.everything) as session:
        rows = session.query(ScheduleRun).order_by(ScheduleRun.at).all()
        assert [row.at for row in rows] == list(between(rhythm, created, last))
        assert {row.outcome for row in rows} == {"submitted"}
        assert session.query(Job).count() == len(rows) == len({row.job_id for row in rows}) >= SLOTS
        versions = [queries.datasets_of(session, row.job_id)["train"]["version"] for row in rows]
        told = [[event["kind"] for event in queries.events(session, row.job_id)].count("scheduled") for row in rows]
    assert versions == sorted(versions)
    assert len(set(versions)) >= 3
    assert set(told) == {1}
    database.dispose()


def over(database):
    """Ends the job that waits, if there is one; whether there was."""
    with database.transaction(Scope.everything) as session:
        jobs = queries.list_jobs(session, status="pending")
        assert len(jobs) <= 1, "the next run waits until the job before it is over"
        for job in jobs:
            requests.request_cancel(session, job.id)
        return bool(jobs)


def logs(node):
    return "\n".join(
        f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(node.settings.logs.glob("*.log"))
    )
