"""A trainer's events reach the record in their order, also those that came while the record was away."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy import select
from waiting import HANG_S, until

from celora.errors import StorageError, UnavailableError
from celora.models.database import Database
from celora.models.jobs import accept, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import Checkpoint, Event, Job, MetricPoint
from celora.storage.manifest import commit
from celora.workers import messages
from celora.workers.stages import progress as module
from celora.workers.stages.claimed import drain_on
from celora.workers.stages.progress import Progress

WORKER = "cpu-0@here"


class Away(Database):
    """A record that is away whenever the test says so."""

    away, refused = False, 0

    @contextmanager
    def transaction(self, scope):
        if self.away:
            self.refused += 1
            raise UnavailableError("the record can't be reached.")
        with super().transaction(scope) as session:
            yield session


class Store:
    """Where uploads go: nowhere, or nowhere yet."""

    def __init__(self):
        self.answers, self.broken = threading.Event(), False
        self.answers.set()

    def upload(self, *names):
        self.answers.wait(HANG_S)
        if self.broken:
            raise StorageError("the store can't be reached.")
        return "file:///" + "/".join(names)


@pytest.fixture
def held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_S", 0.05)
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    monkeypatch.setattr(messages, "attempt", lambda *_, **__: True)
    url = f"sqlite:///{tmp_path / 'celora.db'}"
    record = Database(url)
    record.migrate()
    with record.transaction(Scope.everything) as session:
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        transitions.send(session, "j", 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, "j", 1, Stage.PREPARE, worker_id=WORKER, lease_s=90)
        transitions.advance(session, Claim("j", 1, WORKER), Stage.PREPARE, {})
        transitions.send(session, "j", 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
        transitions.claim(session, "j", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
        job = session.get_one(Job, "j")
        session.expunge(job)
    record.dispose()
    database = Away(url)
    yield SimpleNamespace(
        job=job,
        claim=Claim("j", 1, WORKER),
        lease=SimpleNamespace(lost=False),
        database=database,
        workspace=Store(),
        settings=SimpleNamespace(home=tmp_path),
        stage=Stage.TRAIN,
    )
    database.dispose()


def step(number):
    return {"event": "progress", "v": 1, "job": "j", "attempt": 1, "step": number, "steps": 9, "loss": 1.0}


def saved(folder, number):
    staged = folder / f".tmp-{number}"
    staged.mkdir()
    (staged / "weights").write_text(str(number))
    commit(staged, folder / f"checkpoint-{number}", step=number, attempt=1)
    return {"event": "checkpoint", "step": number, "path": str(folder / f"checkpoint-{number}"), "size_bytes": 1}


def history_of(database):
    with database.session(Scope.everything) as session:
        return [
            (event.kind, (event.data or {}).get("step")) for event in session.scalars(select(Event).order_by(Event.id))
        ][-6:]


def rows(database, table):
    with database.session(Scope.everything) as session:
        return [row.step for row in session.scalars(select(table).order_by(table.step))]


def test_what_came_while_the_record_was_away_is_written_in_order_when_it_is_back(held, tmp_path):
    progress = Progress(held)
    progress.take(step(1))
    held.database.away = True
    for number in (2, 3, 4):
        progress.take(step(number))
        progress.take(saved(tmp_path, number))
    progress.take({"event": "note", "message": "hot"})
    until(lambda: held.database.refused >= 3)
    held.database.away = False
    progress.flush()
    assert rows(held.database, Checkpoint) == [2, 3, 4]
    assert rows(held.database, MetricPoint) == [1, 2, 3, 4]
    kinds = [pair for pair in history_of(held.database) if pair[0] in ("checkpoint", "note")]
    assert kinds == [("checkpoint", 2), ("checkpoint", 3), ("checkpoint", 4), ("note", None)]


def test_the_end_of_a_run_waits_for_the_record(held):
    progress = Progress(held)
    held.database.away = True
    progress.take(step(7))

    class Back(threading.Event):
        """Asked at each wait: the record comes back at the first."""

        def is_set(self):
            held.database.away = False
            return False

    with drain_on(Back(), "j"):
        progress.flush()
    assert rows(held.database, MetricPoint) == [7]


def test_a_worker_that_lost_the_job_does_not_wait(held):
    progress = Progress(held)
    held.database.away, held.lease.lost = True, True
    progress.take(step(1))
    progress.flush()
    progress._thread.join()  # returns, unless it goes on trying


def test_a_slow_store_keeps_nobody_from_looking_after_the_trainer(held, tmp_path):
    progress = Progress(held)
    held.workspace.answers.clear()
    progress.take(saved(tmp_path, 1))
    progress.take(step(2))
    assert rows(held.database, Checkpoint) == []
    held.workspace.answers.set()
    progress.flush()
    assert rows(held.database, Checkpoint) == [1]


def test_a_store_that_is_away_costs_the_checkpoint_and_an_event_and_no_more(held, tmp_path):
    progress, held.workspace.broken = Progress(held), True
    progress.take(saved(tmp_path, 1))
    progress.take(step(2))
    progress.flush()
    assert rows(held.database, Checkpoint) == []
    assert ("checkpoint_missed", None) in history_of(held.database)


def test_a_long_outage_keeps_the_newest_and_every_checkpoint(held, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUFFERED", 5)
    progress, held.database.away = Progress(held), True
    progress.take(saved(tmp_path, 1))
    for number in range(2, 40):
        progress.take(step(number))
        progress.take({"event": "note", "message": str(number)})
    until(progress._taken.empty)
    refused = held.database.refused
    until(lambda: held.database.refused > refused)  # a try that fails with all of them in the buffer bounds it
    held.database.away = False
    progress.flush()
    assert rows(held.database, Checkpoint) == [1]
    assert rows(held.database, MetricPoint)[-1] == 39
    assert len(rows(held.database, MetricPoint)) <= 5 + 1


def test_what_an_event_cannot_do_is_raised_where_the_trainer_is_supervised(held):
    progress = Progress(held)
    progress.take({"event": "receipt", "receipt": {}})  # these places keep none
    with pytest.raises(AttributeError):
        progress.flush()
