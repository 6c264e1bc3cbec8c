"""The queue on real workers: shares by weight, and a storm over classes, preemption and budgets."""

import random
import tempfile
from pathlib import Path

import pytest
from chaos.installation import installation
from chaos.oracle import faults
from chaos.queue_load import (
    PREEMPTING,
    books,
    faults_of_books,
    set_tenants,
    submit_mixed,
    submit_urgent,
    wait_final,
)
from chaos.storm import Storm
from sqlalchemy import func, select

from celora.models.jobs import accept, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.models.tenants.limits import set_limits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WEIGHTS = {"one": 1, "two": 2, "three": 3}
EACH = 20


@pytest.fixture
def folder():
    """A folder that a PostgreSQL which runs as another user can enter."""
    with tempfile.TemporaryDirectory(prefix="celora-queue-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def wait_prepared_by(cluster, model, tenant, number):
    """Write a job that waits for a GPU, its data that of another job, which is prepared already."""
    job_id = f"{tenant}-{number:02d}"
    copied = ("base", "prepared", "prepared_uri", "dataset_sha256", "memory_bytes")
    with cluster.database.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=parse_spec(cluster.spec(steps=5, tenant=tenant)))
        assert transitions.send(session, job_id, 1, Stage.PREPARE, queue="prep")
        assert transitions.claim(session, job_id, 1, Stage.PREPARE, worker_id="prepared", lease_s=90)
        values = {**{name: model[name] for name in copied}, "expected_s": {"cpu": model["gpu_seconds"]}}
        assert transitions.advance(session, Claim(job_id, 1, "prepared"), Stage.PREPARE, values)
    return job_id


def test_until_the_first_backlog_is_empty_each_tenant_is_within_one_job_of_its_due(folder):
    with installation(folder, gpus=1) as cluster:
        (first,) = cluster.submit(1, steps=5)
        (model,) = cluster.wait_final([first], 120)
        cluster.kill("cpu-0")
        with cluster.database.transaction(Scope.everything) as session:
            for tenant, weight in WEIGHTS.items():
                set_limits(session, tenant, {"weight": float(weight)})
        ids = [wait_prepared_by(cluster, model, tenant, number) for number in range(EACH) for tenant in WEIGHTS]
        for number in range(3):
            cluster.start_worker("gpu", f"cpu-{number}")

        def left():
            """The jobs of each tenant that have not begun to train."""
            with cluster.database.session(Scope.everything) as session:
                waiting = (Job.id.in_(ids), Job.stage == Stage.TRAIN, Job.status.in_((Status.PENDING, Status.QUEUED)))
                rows = session.execute(select(Job.tenant, func.count()).where(*waiting).group_by(Job.tenant)).all()
            counts = dict(map(tuple, rows))
            return [counts.get(tenant, 0) for tenant in WEIGHTS]

        cluster.wait(lambda: not all(left()), 400, "the first backlog is empty")
        begun = [job["id"] for job in cluster.jobs(ids) if job["started_at"] and "train" in stages(cluster, job["id"])]
        jobs = cluster.wait_final(begun, 200)
        assert {job["status"] for job in jobs} == {"completed"}
    longest_s = max(job["gpu_seconds"] for job in jobs)
    used_s = {tenant: sum(job["gpu_seconds"] for job in jobs if job["tenant"] == tenant) for tenant in WEIGHTS}
    due_s = {name: sum(used_s.values()) * weight / sum(WEIGHTS.values()) for name, weight in WEIGHTS.items()}
    off_s = {name: abs(used_s[name] - due_s[name]) for name in WEIGHTS}
    assert max(off_s.values()) <= longest_s, (used_s, due_s, longest_s)


def stages(cluster, job_id):
    """The stages that a job has begun."""
    return {event["data"]["stage"] for event in cluster.events(job_id) if event["kind"] == "stage_started"}


def test_a_storm_over_classes_preemption_and_budgets_loses_nothing_and_leaves_no_hold(folder):
    with installation(folder, database="postgres", gpus=2, settings=PREEMPTING) as cluster:
        set_tenants(cluster)
        ids = submit_mixed(cluster, 8, steps=100)
        cluster.wait(lambda: any(log for job_id in ids for log in cluster.steps(job_id).values()), 120, "a job trains")
        storm = Storm(cluster, random.Random(5), pause_s=(0.5, 1.5))
        storm.rage(2, lambda: False)
        ids += submit_urgent(cluster, 8, steps=50)
        storm.rage(6, lambda: False)
        wait_final(cluster, ids, 300)
        cluster.wait_registered()
        assert faults(cluster, ids) == []
        assert faults_of_books(books(cluster)) == []
