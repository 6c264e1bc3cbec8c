"""One job in the foreground: carried to its end, given back on request, and never taken from a worker."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from celora.errors import SettingsError
from celora.models import queries, workers
from celora.models.database import Database
from celora.models.jobs import accept, requests, transitions
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Job, Worker
from celora.scheduling.policy import decide
from celora.scheduling.records import Account, Holding, Node, Waiting
from celora.services.rounds.dispatch import decide_round
from celora.settings.gpus import CATALOGUE
from celora.settings.settings import get_settings
from celora.workers.gpu import Device
from celora.workers.lifecycle import foreground
from celora.workers.lifecycle.presence import Presence

CPU = Device(index=0, gpu_type="cpu", uuid="", name="CPU", memory_bytes=8 * 2**30)
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl"}
TYPES = {gpu.name: gpu for gpu in CATALOGUE}


def submitted(database, job_id="one", **fields):
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=parse_spec({**SPEC, **fields}))
    return job_id


def turn_of(database, job_id="one", device=CPU):
    with database.transaction(Scope.everything) as session:
        return foreground.take_turn(session, job_id, device)


def test_a_pending_stage_is_taken_once(database):
    submitted(database)
    turn = turn_of(database)
    assert (turn.stage, turn.attempt, turn.publication) == (Stage.PREPARE, 1, 1)
    with database.session(Scope.everything) as session:
        job = session.get_one(Job, "one")
        assert (job.status, job.queue) == (Status.QUEUED, "run-job")
    assert turn_of(database).stage is Stage.PREPARE  # a former process died between sending and claiming


def test_what_somebody_else_has_is_waited_for(database):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        workers.register(session, "prep@there", host="there", kind="prep", pid=1, queues=["prep"])
        transitions.send(session, "one", 1, "prepare", queue="prep")
    assert "which a worker reads" in turn_of(database).wait
    with database.transaction(Scope.everything) as session:
        transitions.claim(session, "one", 1, "prepare", worker_id="prep@there", lease_s=90)
    assert turn_of(database).wait == "prepare runs on prep@there"


def test_a_stage_sent_to_a_queue_that_nobody_reads_is_taken(database):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        transitions.send(session, "one", 1, "prepare", queue="prep")
    assert turn_of(database).stage is Stage.PREPARE


def test_a_paused_job_waits_and_says_how_it_goes_on(database):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        requests.request_pause(session, "one")
    assert "celora resume one" in turn_of(database).wait


def test_another_device_than_the_job_asks_for_is_refused(database):
    submitted(database, gpu="h100")
    with pytest.raises(SettingsError, match=r"asks for a h100, and this process has a cpu") as refused:
        turn_of(database)
    assert refused.value.exit_code == 64


def test_a_device_that_is_too_small_is_refused(database):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "one")
        job.stage, job.memory_bytes = Stage.TRAIN, 9 * 2**30
    with pytest.raises(SettingsError, match=r"needs 9.0 GiB, and this cpu has 8.0 GiB"):
        turn_of(database)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (Status.COMPLETED, None, 0),
        (Status.CANCELLED, None, 130),
        (Status.FAILED, {"code": "bad_settings"}, 64),
        (Status.FAILED, {"code": "data_limit"}, 65),
        (Status.FAILED, {"code": "base_model"}, 69),
        (Status.FAILED, {"code": "disk_full"}, 73),
        (Status.FAILED, {"code": "worker_lost"}, 70),
    ],
)
def test_the_exit_code_says_how_the_job_ended(database, status, error, code):
    submitted(database)
    with database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "one")
        job.status, job.error = status, error
    assert turn_of(database).exit_code == code


def test_its_process_gets_no_other_work_and_takes_no_slot(database, home):
    """A job in the foreground counts for its tenant, and leaves the workers' slots to the others."""
    submitted(database, "mine", tenant="acme")
    submitted(database, "other", tenant="acme")
    with Presence(database, get_settings(), "run-job-mine@here", CPU, threading.Event()):
        with database.transaction(Scope.everything) as session:
            for job_id in ("mine", "other"):
                session.get_one(Job, job_id).stage = Stage.TRAIN
        assert turn_of(database, "mine").stage is Stage.TRAIN
        with database.transaction(Scope.everything) as session:
            assert decide_round(session, get_settings()).releases == []
            workers.register(
                session, "cpu-0@here", host="here", kind="gpu", gpu_type="cpu", memory_bytes=2**33, pid=1,
                queues=["gpu.cpu"],
            )  # fmt: skip
        with database.transaction(Scope.everything) as session:
            assert [release.job_id for release in decide_round(session, get_settings()).releases] == ["other"]
    with database.session(Scope.everything) as session:
        assert session.scalars(select(Worker.status).where(Worker.kind == "job")).one() == "offline"


def test_a_slot_outside_counts_against_the_tenants_quota():
    waiting = Waiting(id="b", tenant="acme", stage=Stage.TRAIN, gpu="cpu", priority=0, created_at=None)
    node = Node(kind="gpu", gpu_type="cpu", memory_bytes=2**33)
    held = [Holding(tenant="acme", gpu_type="cpu", outside=True)]
    assert decide([waiting], [node], held, types=TYPES, accounts={"acme": Account(max_gpus=1)}).releases == []
    assert len(decide([waiting], [node], held, types=TYPES, accounts={"acme": Account(max_gpus=2)}).releases) == 1


FAST = {
    "CELORA_LEASE_S": "6",
    "CELORA_HEARTBEAT_S": "1",
    "CELORA_GRACE_S": "20",
    "CELORA_TRAINER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def run_job(home):
    """Starts the command as a pod does; there is no broker and no other process. What is left is ended."""
    started = []

    def start(url, job_id):
        environment = {**os.environ, **FAST, "CELORA_HOME": str(home), "CELORA_DATABASE_URL": url}
        command = [Path(sys.executable).parent / "celora", "run-job", job_id]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_job_that_is_asked_to_leave_goes_on_in_the_next_process(run_job, tmp_path, spec, legal_history):
    url = f"sqlite:///{tmp_path}/record.db"
    database = Database(url)
    database.migrate()
    submitted(database, "pod", **{**spec, "max_steps": 30, "eval_steps": 30, "eval_max_rows": 0})
    first = run_job(url, "pod")
    _await(database, lambda job: job.step >= 1, first)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=240)
    assert first.returncode == 75, said
    with database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "pod")
        assert (job.status, job.reason, job.attempt) == (Status.PENDING, Reason.PREEMPTED, 2)
        reached = job.step
        assert 0 < reached < 30
    second = run_job(url, "pod")
    _, said = second.communicate(timeout=240)
    assert second.returncode == 0, said
    with database.session(Scope.everything) as session:
        job = session.get_one(Job, "pod")
        assert (job.status, job.attempt) == (Status.COMPLETED, 2)
        assert job.resume_step == reached
        assert Path(str(job.adapter_uri).removeprefix("file://"), "adapter_model.safetensors").is_file()
        events = queries.events(session, "pod")
        assert legal_history(events) == []
        started = [event["message"] for event in events if event["kind"] == "stage_started"]
        host = platform.node()
        assert started == [f"{stage} started on run-job-pod@{host}"
                           for stage in ("prepare", "train", "train", "evaluate", "publish")]  # fmt: skip
        assert set(session.scalars(select(Worker.status))) == {"offline"}
    database.dispose()


def _await(database, reached, process, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with database.session(Scope.everything) as session:
            if reached(session.get_one(Job, "pod")):
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it did not get there in time")
