"""A charge counts in the share of its tenant."""

import pytest

from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Job, TenantUse


def test_the_seconds_of_a_gpu_stage_are_added_and_those_of_preparing_are_not(record):
    record.bring(Status.RUNNING, Stage.PREPARE)
    record.advance(Claim("job", 1, "cpu-0@here"), Stage.PREPARE, {})
    with record.database.session(Scope.everything) as session:
        assert session.get(TenantUse, "acme") is None
    record.send("job", 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 1, Stage.TRAIN, worker_id="cpu-0@here", lease_s=90)
    with record.database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "job")
        job.claimed_at = job.claimed_at.replace(year=job.claimed_at.year - 1)
    record.advance(Claim("job", 1, "cpu-0@here"), Stage.TRAIN, {})
    with record.database.session(Scope.everything) as session:
        used = session.get_one(TenantUse, "acme").gpu_seconds
    assert used == pytest.approx(record.job().gpu_seconds)
    assert used > 3e7
