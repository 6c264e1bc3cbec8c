"""A job in any state, driven there through the transitions alone, and the checker of legal histories."""

import pytest
from records import Verbs

from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Job

WORKER, OTHER = "cpu-0@here", "cpu-1@there"
GPU = {"queue": "gpu.cpu", "gpu_type": "cpu"}
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme", "user": "ada"}


class Record(Verbs):
    """The record's writes, and a job in any state."""

    def new(self, job_id="job", **fields):
        self.submit(job_id=job_id, spec=parse_spec(SPEC | fields))
        return job_id

    def job(self, job_id="job"):
        with self.database.session(Scope.everything) as session:
            return session.get_one(Job, job_id)

    def bring(self, status, stage=Stage.PREPARE, job_id="job"):
        """Bring a fresh job to a status of a stage, as a tick and a worker would."""
        if job_id == "job":
            self.new(job_id)
        for passing in Stage:
            if self.job(job_id).status is Status.PENDING and (passing, status) != (stage, Status.PENDING):
                queue = GPU if passing.on_gpu else {"queue": "prep"}
                assert self.send(job_id, self.job(job_id).attempt, passing, **queue)
            if (passing, status) == (stage, Status.PENDING) or (passing, status) == (stage, Status.QUEUED):
                return self.job(job_id)
            assert self.claim(job_id, self.job(job_id).attempt, passing, worker_id=WORKER, lease_s=90)
            if passing is stage and status is Status.RUNNING:
                return self.job(job_id)
            assert self.advance(Claim(job_id, self.job(job_id).attempt, WORKER), passing, {})
        return self.job(job_id)


@pytest.fixture
def record(database):
    return Record(database)
