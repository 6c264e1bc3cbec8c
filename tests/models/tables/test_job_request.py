"""The tables of requests: their rows go with their job, and a key is unique within its tenant alone."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from two_tenants import new_job

from celora.models.scope.scope import Scope
from celora.models.tables import IdempotencyKey, Job, JobLabel, JobRequest, Tenant

AT = datetime(2026, 11, 30, tzinfo=UTC)


def fill(session, tenant, job_id):
    session.add(Tenant(name=tenant, created_at=AT))
    session.flush()
    session.add(new_job(tenant, job_id))
    session.flush()
    session.add(IdempotencyKey(tenant=tenant, key="k", body_sha256="0" * 64, job_id=job_id, created_at=AT))
    session.add(JobLabel(job_id=job_id, key="k", value="v", tenant=tenant, created_at=AT))
    session.add(JobRequest(job_id=job_id, tenant=tenant, model="m", named="m", training_file="f", method="supervised",
                           hyperparameters={}, body_sha256="0" * 64, created_at=AT))  # fmt: skip
    session.flush()


def test_the_rows_go_with_their_job(database):
    with database.transaction(Scope.everything) as session:
        fill(session, "acme", "job-1")
        fill(session, "other", "job-2")
        session.execute(delete(Job).where(Job.id == "job-1"))
        for table in (IdempotencyKey, JobLabel, JobRequest):
            assert session.scalar(select(func.count()).select_from(table)) == 1


def test_a_key_is_unique_within_its_tenant(database):
    again = insert(IdempotencyKey).values(tenant="acme", key="k", body_sha256="1" * 64, job_id="job-1", created_at=AT)
    with database.transaction(Scope.everything) as session:
        fill(session, "acme", "job-1")
    with database.transaction(Scope.everything) as session, pytest.raises(IntegrityError):
        session.execute(again)
