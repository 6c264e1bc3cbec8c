"""The task of the reaper: it takes back a job whose lease ran out."""

from datetime import timedelta

from celora.models.database import get_database, now
from celora.models.jobs import accept, reaper_watch, transitions
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Beacon, Job
from celora.tasks.reap import reap


def test_a_job_of_a_lost_worker_returns_to_the_queue(home):
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        transitions.send(session, "j", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "j", 1, Stage.PREPARE, worker_id="prep@here", lease_s=90)
        session.get_one(Job, "j").lease_until = now(session) - timedelta(seconds=1)
        reaper_watch.watch(session, "reaper", lapse_s=60)
        session.get_one(Beacon, "reaper").since = now(session) - timedelta(hours=1)
    reap()
    with database.session(Scope.everything) as session:
        job = session.get_one(Job, "j")
        assert (job.status, job.attempt) == (Status.PENDING, 2)
