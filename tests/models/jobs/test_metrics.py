"""Sums over the record: what only grows is read once, everything else at the moment of the question."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from celora.models.database import now
from celora.models.jobs import metrics
from celora.models.jobs.metrics import Reader
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Event, Job

WORKER = "cpu-0@here"


@pytest.fixture
def read(busy_record):
    """Reads with a reader that waits for nothing, and sees the times of the filled record, which lie ahead."""
    reader = Reader(settled_s=-120)

    def totals():
        with busy_record.session(Scope.everything) as session:
            return reader.read(session)

    return totals


@pytest.fixture
def ask(database):
    def call(question, *args):
        with database.session(Scope.everything) as session:
            return question(session, *args)

    return call


def test_what_happened_is_summed_and_counted_once(read, busy_record):
    totals = read()
    ended = {("cpu", "completed"): 1, ("cpu", "failed"): 1, ("none", "cancelled"): 1}
    assert dict(totals.ended) == ended
    assert dict(totals.failures) == {"diverged": 1}
    assert dict(totals.retries) == {"device": 1}
    assert totals.events["worker_lost"] == 1
    assert totals.cost["acme", "cpu"] == pytest.approx(totals.gpu_seconds["acme", "cpu"])  # at 3600 dollars an hour
    assert {(stage, outcome) for stage, outcome, _ in totals.stages} >= {
        ("prepare", "done"), ("publish", "done"), ("train", "failed"), ("train", "retrying"), ("train", "worker_lost"),
    }  # fmt: skip
    assert min(seconds for _, _, seconds in totals.stages) >= 0
    events = dict(totals.events)
    again = read()
    assert (dict(again.ended), dict(again.events), again.stages) == (ended, events, [])
    for number, job_id in enumerate(("waiting", "paused"), 2):  # they end at the very moment of the reader's mark
        with busy_record.transaction(Scope.everything) as session:
            newest = session.scalar(select(func.max(Job.finished_at)))
            values = {"status": Status.CANCELLED, "finished_at": newest}
            session.execute(update(Job).where(Job.id == job_id).values(**values))
        assert [read().ended["none", "cancelled"], read().ended["none", "cancelled"]] == [number, number]


def test_events_are_read_in_pages_once_they_have_settled(busy_record, monkeypatch):
    with busy_record.session(Scope.everything) as session:
        assert Reader(settled_s=3600).read(session).events.total() == 0
        monkeypatch.setattr(metrics, "PAGE", 2)
        counted = select(func.count()).select_from(Event).where(Event.kind.in_(metrics.COUNTED))
        assert Reader(settled_s=-120).read(session).events.total() == session.scalar(counted)
        assert [worker.id for worker in metrics.workers(session)] == ["cpu-0@here", "l4-0@there", "prep@here"]
        attempts = metrics.attempts(session)
        assert (attempts["lost"], attempts["open"] >= 1) == (1, True)
        assert metrics.unannounced(session) == 3
        assert abs(metrics.reaper_age_s(session)) < 120


def test_events_without_their_data_are_counted(record):
    record.bring(Status.RUNNING)
    for data in (None, {}, {"error": None}):
        record.record_event("job", 1, "warning", "retrying", "again", data)
    with record.database.session(Scope.everything) as session:
        totals = Reader(settled_s=-120).read(session)
    assert dict(totals.retries) == {"internal": 3}


def test_an_empty_record_has_no_figures(ask):
    found = ask(metrics.unfinished)
    assert (dict(found.counts), found.oldest_s, found.paused, found.running) == ({}, {}, 0, [])
    assert ask(metrics.workers) == []
    assert ask(metrics.attempts) == {}
    assert ask(metrics.reaper_age_s) is None
    assert ask(metrics.unannounced) == 0


@pytest.mark.parametrize(
    ("stage", "fields", "queue"),
    [
        (Stage.PREPARE, {}, "prep"),
        (Stage.TRAIN, {"gpu": "auto"}, "gpu.auto"),
        (Stage.TRAIN, {"gpu": "l4"}, "gpu.l4"),
        (Stage.PUBLISH, {}, "celora"),
    ],
)
def test_a_waiting_job_counts_in_the_queue_that_it_will_go_to(record, ask, stage, fields, queue):
    record.new(**fields)
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").stage = stage
        session.get_one(Job, "job").updated_at = now(session) - timedelta(seconds=60)
    found = ask(metrics.unfinished)
    assert dict(found.counts) == {(queue, "pending"): 1}
    assert found.oldest_s[queue] >= 60


@pytest.mark.parametrize(("types", "queue"), [(["l4"], "gpu.l4"), (["l4", "h100"], "gpu.auto"), ([], "gpu.auto")])
def test_an_undecided_job_counts_for_the_only_type_that_is_online(record, ask, types, queue):
    for gpu_type in types:
        record.register(f"{gpu_type}-0@there", host="there", kind="gpu", gpu_type=gpu_type, pid=1, queues=[])
    record.bring(Status.PENDING, Stage.TRAIN)
    assert dict(ask(metrics.unfinished).counts) == {(queue, "pending"): 1}


def test_a_paused_job_is_counted_apart(record, ask):
    record.new()
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").paused = True
    found = ask(metrics.unfinished)
    assert (found.paused, dict(found.counts), found.oldest_s) == (1, {}, {})


def test_a_running_job_reports_its_speed_and_its_lease(record, ask):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.record_progress(Claim("job", 1, WORKER), {"step": 1, "steps": 9, "progress": {"tokens_per_s": 250.0}})
    (running,) = ask(metrics.unfinished).running
    assert (running.worker, running.gpu_type, running.tenant) == (WORKER, "cpu", "acme")
    assert running.tokens_per_s == 250.0
    assert running.lease_until is not None
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").stage = Stage.EVALUATE
        session.get_one(Job, "job").lease_until = None
    (running,) = ask(metrics.unfinished).running
    assert (running.stage, running.lease_until) == (Stage.EVALUATE, None)
