"""Kills at the most telling lines, a frozen worker, a small storm: real processes, the mini trainer, both databases."""

import random
import tempfile
from pathlib import Path

import pytest
from chaos.installation import installation
from chaos.oracle import faults
from chaos.storm import Storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

QUICK = {"CELORA_LEASE_S": "2", "CELORA_HEARTBEAT_S": "0.4", "CELORA_REAPER_S": "0.5", "CELORA_TICK_S": "0.5",
         "CELORA_CLAIM_S": "3", "CELORA_MAX_ATTEMPTS": "30"}  # fmt: skip
GPU = ("claim.committed", "save.filled", "checkpoint.uploaded", "upload.staged", "work.end", "ending.written")
CONTROL = ("tick.committed", "reap.expired", "publish.uploaded")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def cluster(request):
    """Two GPU workers; not below pytest's folder, which a PostgreSQL that runs as another user could not enter."""
    with tempfile.TemporaryDirectory(prefix="celora-kills-") as name:
        Path(name).chmod(0o755)
        with installation(Path(name), database=request.param, gpus=2, settings=QUICK) as running:
            yield running


def steps_of(cluster, job_id, attempt=1):
    return max((log[-1][0] for number, log in cluster.steps(job_id).items() if number >= attempt and log), default=0)


def worker_of(cluster, job_id):
    return cluster.job(job_id)["worker_id"].split("@")[0]


def test_a_small_storm_loses_and_doubles_nothing(cluster):
    ids = cluster.submit(3, steps=150, save_steps=25)
    storm = Storm(cluster, random.Random(7), pause_s=(0.5, 1.2))
    storm.rage(6, lambda: False)
    cluster.wait_final(ids, 90)
    cluster.wait_registered()
    assert faults(cluster, ids) == []
    assert sum(storm.kills.values()) == 6


def test_a_kill_at_each_telling_line_is_survived(cluster):
    fired = cluster.home / "fired"
    fired.mkdir()
    for name, points in (("cpu-0", GPU), ("cpu-1", GPU), ("control", CONTROL)):
        armed = ",".join(f"{point}:kill" for point in points)
        cluster.kill(name)
        kind = "control" if name == "control" else "gpu"
        cluster.start_worker(kind, name, {"CELORA_FAILPOINT": armed, "CELORA_FAILPOINT_ONCE": str(fired)})
    cluster.wait_registered()
    ids = cluster.submit(3, steps=50, save_steps=20)
    cluster.wait_final(ids, 120)
    assert faults(cluster, ids) == []
    assert sorted(path.name for path in fired.iterdir()) == sorted(GPU + CONTROL)


def test_a_frozen_worker_that_wakes_up_kills_its_trainer_and_changes_nothing(cluster):
    (job_id,) = cluster.submit(1, steps=250, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 30, 60)
    worker = worker_of(cluster, job_id)
    old = {trainer.pid for trainer in cluster.trainers(worker)}
    cluster.freeze(worker)
    try:
        cluster.wait(lambda: steps_of(cluster, job_id, attempt=2) >= 30, 60)
    finally:
        cluster.thaw(worker)
    cluster.wait(lambda: not old & {trainer.pid for trainer in cluster.trainers()}, 10)
    cluster.wait_final([job_id], 60)
    assert faults(cluster, [job_id]) == []
    assert cluster.job(job_id)["attempt"] == 2


def test_a_trainer_whose_worker_died_leaves_before_the_job_goes_on_elsewhere(cluster):
    (job_id,) = cluster.submit(1, steps=200, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 10, 60)
    worker = worker_of(cluster, job_id)
    assert cluster.trainers(worker)
    cluster.kill(worker)
    cluster.wait(lambda: not cluster.trainers(), 10)
    assert cluster.job(job_id)["attempt"] == 1  # its lease still holds
    cluster.start_worker("gpu", worker)
    cluster.wait_final([job_id], 60)
    assert faults(cluster, [job_id]) == []


def test_a_killed_trainer_costs_no_lease(cluster):
    (job_id,) = cluster.submit(1, steps=100, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 30, 60)
    assert cluster.kill_trainer(worker_of(cluster, job_id))
    cluster.wait_final([job_id], 60)
    kinds = [event["kind"] for event in cluster.events(job_id)]
    assert kinds.count("retrying") == 1
    assert "worker_lost" not in kinds
    assert faults(cluster, [job_id]) == []
