"""Broker and database go away in every way, a worker goes deaf, a person cancels: real processes, the mini trainer."""

import tempfile
import time
from pathlib import Path

import pytest
from celery import Celery
from chaos.cluster import Cluster
from chaos.door import Door
from chaos.oracle import faults
from chaos.proxy import Proxy
from chaos.servers import Postgres, Valkey

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder():
    """Not below pytest's own folder, which only its owner can enter: PostgreSQL may have to run as somebody else."""
    with tempfile.TemporaryDirectory(prefix="celora-outages-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def valkey(folder):
    with Valkey(folder / "valkey") as server:
        yield server


@pytest.fixture(scope="module")
def postgres(folder):
    with Postgres(folder / "postgres") as server:
        yield server


@pytest.fixture(scope="module")
def door(cluster):
    with Door(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def cluster(folder, valkey, postgres):
    """Two GPU workers on PostgreSQL and Valkey."""
    settings = {"CELORA_DEAF_AFTER_S": "3", "CELORA_LEASE_S": "10"}  # a crowded machine starts a server late
    url = postgres.create("record")
    with Cluster(folder / "home", broker_url=valkey.url, database_url=url, settings=settings) as running:
        running.start(2)
        yield running
        running.stop(grace_s=0)  # how they leave is shown elsewhere


def trains(cluster, job_id, beyond=0):
    cluster.wait(lambda: (job := cluster.job(job_id))["status"] == "running" and job["step"] > beyond, 30)


def test_a_broker_that_dies_with_its_data_harms_no_job(cluster, valkey):
    ids = cluster.submit(3, steps=100)
    trains(cluster, ids[0])
    attempts = {job_id: cluster.job(job_id)["attempt"] for job_id in ids}
    valkey.restart(keep=False, away_s=1)
    cluster.wait_final(ids, 60)
    assert faults(cluster, ids) == []
    assert {job_id: cluster.job(job_id)["attempt"] for job_id in ids} == attempts


def test_connections_that_are_cut_harm_no_job(cluster, valkey):
    ids = cluster.submit(2, steps=60)
    trains(cluster, ids[0])
    valkey.drop_clients()
    later = cluster.submit(1, steps=5)
    cluster.wait_final(ids + later, 60)
    assert faults(cluster, ids + later) == []


def test_a_database_that_crashes_does_not_stop_the_training(cluster, postgres):
    ids = cluster.submit(2, steps=250, save_steps=50)
    trains(cluster, ids[0], beyond=5)
    postgres.stop_immediately()
    time.sleep(2)
    postgres.start()
    cluster.wait_final(ids, 60)
    assert faults(cluster, ids) == []
    for job_id in ids:
        assert cluster.job(job_id)["attempt"] == 1
        saved = [row["step"] for row in cluster.checkpoints(job_id)]
        assert saved == [50, 100, 150, 200], "those that came while the record was away are in it too"


def test_a_worker_that_is_deaf_leaves_and_its_successor_hears(cluster, door, valkey):
    app = Celery("elsewhere", broker=valkey.url)
    host = next(row["id"] for row in cluster.registered() if row["id"].startswith("cpu-0@"))
    app.control.cancel_consumer("gpu.cpu", destination=[host], reply=True, timeout=5)
    blocker = cluster.submit(1, steps=5000)  # takes the worker that hears
    trains(cluster, blocker[0])
    ids = cluster.submit(1, steps=5)
    process = cluster.workers["cpu-0"]
    assert process.wait(timeout=30) == 70
    assert "it is deaf" in (cluster.home / "logs" / "cpu-0.log").read_text()
    cluster.start_worker("gpu", "cpu-0")
    cluster.wait_final(ids, 30)
    assert cluster.job(blocker[0])["attempt"] == 1
    door.cancel(blocker[0])
    cluster.wait_final(blocker, 10)
    assert faults(cluster, ids) == []
    app.close()


def test_an_id_that_is_sent_ten_times_to_two_control_workers_is_one_job(cluster, valkey):
    cluster.start_worker("control", "control-two")
    app = Celery("elsewhere", broker=valkey.url)
    try:
        cluster.wait_registered()
        for _ in range(10):
            app.send_task("celora.finetune", kwargs=cluster.spec(steps=5), task_id="the-one", queue="celora")
        cluster.wait_final(["the-one"], 60)
        assert faults(cluster, ["the-one"]) == []
        assert [event["kind"] for event in cluster.events("the-one")].count("submitted") == 1
    finally:
        app.close()
        second = cluster.workers.pop("control-two")
        second.terminate()
        second.wait(30)


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_cancel_ends_whatever_stage_runs(cluster, door, stage):
    ids = cluster.submit(1, steps=2000 if stage == "train" else 5, base=f"chain:slow-{stage}")
    cluster.wait(lambda: runs(cluster.job(ids[0]), stage), 30)
    began = time.monotonic()
    door.cancel(ids[0])
    cluster.wait_final(ids, 10)
    assert time.monotonic() - began < 2 * 1 + 3
    assert faults(cluster, ids, status="cancelled") == []
    stages = [event["data"]["stage"] for event in cluster.events(ids[0]) if event["kind"] == "stage_started"]
    assert stages[-1] == stage


def test_a_cancel_needs_neither_worker_nor_broker(cluster, door, valkey):
    waiting = cluster.submit(1, steps=5, gpu="h100")
    cluster.wait(lambda: cluster.job(waiting[0])["stage"] == "train", 30)
    calm = door.submit("calm-cancel", cluster.spec(steps=5, gpu="h100"))["seconds"]  # what this machine needs anyway
    valkey.freeze()
    try:
        answer = door.cancel(waiting[0])
    finally:
        valkey.thaw()
    assert answer["seconds"] < 1 + calm
    assert cluster.job(waiting[0])["status"] == "cancelled"


def runs(job, stage):
    """Whether one look at the job finds it in that stage."""
    return (job["status"], job["stage"]) == ("running", stage)


@pytest.mark.parametrize("how", ["dead", "frozen", "blackhole"])
def test_a_submit_returns_within_a_second_whatever_the_broker_does(cluster, valkey, how):
    with Proxy("127.0.0.1", valkey.port) as proxy:
        url = valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/")
        with Door(cluster, {"CELORA_BROKER_URL": url, "CELORA_RESULT_BACKEND": url}) as door:
            calm = max(
                door.submit(f"calm-{how}-{number}", cluster.spec(steps=5, gpu="h100"))["seconds"] for number in range(2)
            )
            if how == "frozen":
                valkey.freeze()
            else:
                proxy.mode = {"dead": "down", "blackhole": "blackhole"}[how]
            try:
                answers = [door.submit(f"{how}-{number}", cluster.spec(steps=5)) for number in range(2)]
            finally:
                valkey.thaw()
        assert [answer["ok"] for answer in answers] == [True] * 2
        assert max(answer["seconds"] for answer in answers) < 1 + calm
        ids = [answer["id"] for answer in answers]
        cluster.wait_final(ids, 60)
        assert faults(cluster, ids) == []
