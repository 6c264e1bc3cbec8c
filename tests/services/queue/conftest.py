"""A record of both kinds with a GPU worker, two tenants and jobs that wait for a GPU."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from celora.models import workers
from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import Job
from celora.services.acceptance import write_job
from celora.services.queue import changes
from celora.services.rounds.dispatch import dispatch
from celora.settings.settings import get_settings

GIB = 2**30


class Queue:
    """A record whose jobs wait for ``h100`` slots."""

    def __init__(self, database):
        self.database = database

    def worker(self, name="h100-0@h", gpu_type="h100"):
        with self.database.transaction(Scope.everything) as session:
            workers.register(session, name, host="h", kind="gpu", gpu_type=gpu_type, memory_bytes=80 * GIB, pid=1,
                             slots=1, queues=[f"gpu.{gpu_type}"])  # fmt: skip

    def job(self, job_id, *, seconds=100.0, **fields):
        """A prepared job that waits for a GPU."""
        spec = parse_spec({"base_model": "b", "dataset": "/d.jsonl", "gpu": "h100", **fields})
        with self.database.transaction(Scope.everything) as session:
            write_job(session, get_settings(), job_id, spec, None)
            assert transitions.send(session, job_id, 1, Stage.PREPARE, queue="prep")
            assert transitions.claim(session, job_id, 1, Stage.PREPARE, worker_id="p", lease_s=90)
            values = {"expected_s": {"h100": seconds}, "memory_bytes": 4 * GIB}
            assert transitions.advance(session, Claim(job_id, 1, "p"), Stage.PREPARE, values)

    def older(self, job_id, minutes):
        with self.database.transaction(Scope.everything) as session:
            moved = session.get_one(Job, job_id).created_at - timedelta(minutes=minutes)
            session.execute(update(Job).where(Job.id == job_id).values(created_at=moved))

    def round(self):
        return dispatch(self.database, get_settings(), lambda _: None)

    def row(self, job_id):
        with self.database.session(Scope.everything) as session:
            return session.get_one(Job, job_id)


@pytest.fixture
def here(database, home, monkeypatch):
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    monkeypatch.setattr(changes, "request_tick", lambda: None)
    return Queue(database)
