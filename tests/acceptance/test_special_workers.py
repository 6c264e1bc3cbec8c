"""A worker that is reserved for a tenant and carries labels, and an urgent job that takes its slot: real processes."""

import os
import signal
from pathlib import Path

import pytest
from chaos.processes import trainers_of
from live_installation import Running, start, stop
from waiting import until

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.models.tables import Job, Worker

SETTINGS = {"CELORA_PREEMPTION": "true", "CELORA_LABELS": "fast,big", "CELORA_RESERVED_FOR": "team-a"}


@pytest.fixture
def reserved(tmp_path):
    """An installation with one GPU worker, which is special."""
    armed = {"CELORA_FAILPOINT": "step.done:stop@3", "CELORA_FAILPOINT_ONCE": str(tmp_path)}
    installation, patch = start(tmp_path / "home", SETTINGS | armed, spare=False)
    yield Running(installation)
    stop(installation, patch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_urgent_job_takes_a_special_workers_slot_and_the_other_ends_equal_to_the_bit(reserved, spec):
    reserved.run("celora", "tenant", "set", "team-a", "--classes", "urgent,normal")
    long = {**spec, "tenant": "team-a", "labels": ["fast"], "max_steps": 12, "eval_steps": 12, "eval_max_rows": 0}
    low = reserved.send(long)
    trainer = until(lambda: stopped_trainer(reserved), what="the first job's trainer stops in its third step")
    stranger = reserved.send({**spec, "max_steps": 1})
    urgent = reserved.send({**spec, "tenant": "team-a", "job_class": "urgent", "max_steps": 1, "eval_max_rows": 0})
    until(lambda: "preempt_requested" in kinds(reserved, low.id), what="the running job is asked for its slot")
    # A worker hears of the request when it renews its lease; the job must not end before.
    asked = lease_of(reserved, low.id)
    until(lambda: lease_of(reserved, low.id) > asked, what="the lease is renewed")
    heard = lease_of(reserved, low.id)
    until(lambda: lease_of(reserved, low.id) > heard, what="the lease is renewed again")
    os.kill(trainer, signal.SIGCONT)
    reserved.wait(urgent.id, lambda job: job["status"] == "completed")
    first = reserved.wait(low.id, lambda job: job["status"] == "completed")
    assert (first["attempt"], first["stale_attempts"]) == (2, 0)
    waits = reserved.wait(stranger.id, lambda job: job["stage"] == Stage.TRAIN and "reserved" in job["wait_reason"])
    assert waits["status"] == "pending"
    plain = reserved.send(long)
    reserved.wait(plain.id, lambda job: job["status"] == "completed")
    database = Database(reserved.settings.database)
    try:
        with database.session(Scope.everything) as session:
            worker = session.query(Worker).filter(Worker.kind == "gpu").one()
            assert (worker.labels, worker.reserved_for) == ("big,fast", "team-a")
            assert worker.queues == [f"gpu.cpu@@{worker.id}"]
            urgents = session.get_one(Job, urgent.id)
            assert urgents.finished_at < session.get_one(Job, low.id).finished_at
        assert weights_of(database, low) == weights_of(database, plain)
    finally:
        database.dispose()


def stopped_trainer(running):
    """The process id of a trainer that the failpoint stopped; None while there is none."""
    return next((one.pid for one in trainers_of(running.settings.home) if one.state == "T"), None)


def lease_of(running, job_id):
    database = Database(running.settings.database)
    try:
        with database.session(Scope.everything) as session:
            return session.get_one(Job, job_id).lease_until
    finally:
        database.dispose()


def kinds(running, job_id):
    return [event["kind"] for event in running.events(job_id)]


def weights_of(database, result):
    with database.session(Scope.everything) as session:
        folder = Path(session.get_one(Job, result.id).adapter_uri.removeprefix("file://"))
    return (folder / "adapter_model.safetensors").read_bytes()
