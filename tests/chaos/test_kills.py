"""Kills at the most telling lines, a frozen worker, a small storm: real processes, the mini trainer, both databases."""

import random
import tempfile
import time
from pathlib import Path

import pytest
from chaos.installation import installation
from chaos.oracle import faults, redone
from chaos.storm import Storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

QUICK = {"CELORA_LEASE_S": "2", "CELORA_HEARTBEAT_S": "0.4", "CELORA_REAPER_S": "0.5", "CELORA_TICK_S": "0.5",
         "CELORA_CLAIM_S": "3", "CELORA_MAX_ATTEMPTS": "30"}  # fmt: skip
TELLING = {
    "cpu-0": (
        "claim.committed", "save.filled", "commit.manifest", "checkpoint.uploading", "checkpoint.uploaded",
        "work.end", "ending.written", "upload.staged", "adapter.committed",
    ),
    "control": ("tick.committed", "reap.expired", "publish.uploaded"),
}  # fmt: skip


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
    for worker, points in TELLING.items():
        armed = ",".join(f"{point}:kill" for point in points)
        cluster.kill(worker)
        kind = "gpu" if worker == "cpu-0" else worker
        cluster.start_worker(kind, worker, {"CELORA_FAILPOINT": armed, "CELORA_FAILPOINT_ONCE": str(fired)})
    cluster.kill("cpu-1")  # so that every job passes the armed one
    del cluster.workers["cpu-1"]
    cluster.wait_registered()
    ids = cluster.submit(2, steps=60, save_steps=20)
    cluster.wait_final(ids, 90)
    assert faults(cluster, ids) == []
    assert {path.name for path in fired.iterdir()} == {point for points in TELLING.values() for point in points}
    cluster.start_worker("gpu", "cpu-1")
    cluster.wait_registered()


def test_a_frozen_worker_that_wakes_up_kills_its_trainer_and_changes_nothing(cluster):
    (job_id,) = cluster.submit(1, steps=250, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 30, 30)
    worker = worker_of(cluster, job_id)
    old = {trainer.pid for trainer in cluster.trainers(worker)}
    cluster.freeze(worker)
    cluster.wait(lambda: steps_of(cluster, job_id, attempt=2) >= 30, 30)
    cluster.thaw(worker)
    cluster.wait(lambda: not old & {trainer.pid for trainer in cluster.trainers()}, 5)
    cluster.wait_final([job_id], 60)
    assert faults(cluster, [job_id]) == []
    assert cluster.job(job_id)["attempt"] == 2


def test_a_trainer_whose_worker_died_leaves_within_a_second(cluster):
    (job_id,) = cluster.submit(1, steps=200, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 10, 30)
    worker = worker_of(cluster, job_id)
    assert cluster.trainers(worker)
    killed_at = time.monotonic()
    cluster.kill(worker)
    cluster.wait(lambda: not cluster.trainers(), 5)
    assert time.monotonic() - killed_at < 1.5
    cluster.start_worker("gpu", worker)
    cluster.wait_final([job_id], 60)
    assert faults(cluster, [job_id]) == []
    assert max(redone(cluster, job_id)) <= 25 + 1


def test_a_killed_trainer_costs_no_lease(cluster):
    (job_id,) = cluster.submit(1, steps=100, save_steps=25)
    cluster.wait(lambda: steps_of(cluster, job_id) >= 30, 30)
    killed_at = time.monotonic()
    assert cluster.kill_trainer(worker_of(cluster, job_id))
    cluster.wait(lambda: steps_of(cluster, job_id, attempt=2), 10)
    assert cluster.steps(job_id)[2][0][1] - killed_at < 2
    cluster.wait_final([job_id], 60)
    assert faults(cluster, [job_id]) == []
