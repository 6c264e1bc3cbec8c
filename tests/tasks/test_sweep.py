"""The task of the sweep: it drops the data of jobs that ended long ago, and writes missing aliases anew."""

from datetime import timedelta

from kombu.exceptions import OperationalError
from sqlalchemy import select

from celora.models import workers
from celora.models.database import get_database, now
from celora.models.jobs import accept, requests
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job, Worker
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest
from celora.tasks.sweep import sweep
from celora.workers import queues


def test_workers_that_left_are_forgotten_with_their_queues_once_the_broker_can_be_reached(home, monkeypatch):
    database, deleted, away = get_database(), [], [OperationalError("refused")]
    database.migrate()
    with database.transaction(Scope.everything) as session:
        workers.register(session, "gone", host="h", kind="gpu", pid=1, queues=["gpu.cpu", "gpu.cpu@=gone"])
        workers.mark_offline(session, "gone")
        session.get_one(Worker, "gone").last_seen_at = now(session) - timedelta(days=30)

    def delete(_app, names):
        if away:
            raise away.pop()
        deleted.extend(names)
        return 1

    monkeypatch.setattr(queues, "delete", delete)
    for left, gone in (({"gone"}, []), (set(), ["gpu.cpu@=gone"])):
        sweep()
        with database.session(Scope.everything) as session:
            assert (set(session.scalars(select(Worker.id))), deleted) == (left, gone)


def test_the_data_of_a_job_that_ended_long_ago_is_removed(home, tmp_path):
    database, artifacts = get_database(), Artifacts(get_settings().artifacts)
    database.migrate()
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "rows").write_bytes(b"x" * 10)
    write_manifest(tmp_path / "prepared")
    uri = artifacts.uri("jobs", "j", "attempt-1", "prepared")
    artifacts.put_folder(tmp_path / "prepared", uri)
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        requests.request_cancel(session, "j")
        job = session.get_one(Job, "j")
        job.prepared_uri, job.finished_at = uri, now(session) - timedelta(days=400)
    sweep()
    assert not artifacts.committed(uri)
    with database.session(Scope.everything) as session:
        assert session.get_one(Job, "j").prepared_uri is None
