"""Every ending of a stage is recorded, and the end of a job is announced at once."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.result import AsyncResult

from celora.errors import DataError, UnavailableError
from celora.models import queries, workers
from celora.models.database import get_database
from celora.models.jobs import accept, failures, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Event, Job, Worker
from celora.settings.settings import get_settings
from celora.workers import results
from celora.workers.celery import configuration
from celora.workers.stages import outcomes
from celora.workers.stages.claimed import drain_on, note
from celora.workers.trainer.supervisor import Lost, TrainerError

GIB = 2**30
WORKER = "t4-0@here"
BASE = {"name": "base", "revision": "r1"}
RESOLVED = {"micro_batch": 4, "accumulation": 4, "gradient_checkpointing": False, "max_length": 512}


class AwayFor:
    """A record that cannot be reached the first few times; only what ``_settle`` asks of it."""

    def __init__(self, times):
        self.times = times

    def transaction(self, _scope):
        self.times -= 1
        if self.times >= 0:
            raise UnavailableError("the record can't be reached.")
        return self

    def __enter__(self):
        return "session"

    def __exit__(self, *_):
        return None


def held_by(database, job=None):
    job = job or SimpleNamespace(id="j", attempt=1, stage=Stage.TRAIN)
    return SimpleNamespace(
        database=database,
        job=job,
        stage=job.stage,
        hosts_trainers=False,
        claim=Claim(job.id, job.attempt, WORKER),
        settings=SimpleNamespace(max_attempts=3, retry_wait_s=10, home=Path("/nowhere")),
    )


def test_the_end_of_a_stage_waits_for_a_record_that_is_away(monkeypatch):
    monkeypatch.setattr(outcomes, "SETTLE_S", 0)
    assert outcomes._settle(held_by(AwayFor(3)), lambda session: session == "session") is True


def test_a_worker_that_has_to_leave_does_not_wait():
    leaving = threading.Event()
    leaving.set()
    with drain_on(leaving, "j"), pytest.raises(Lost):
        outcomes._settle(held_by(AwayFor(1)), lambda _: True)


def test_the_trainers_own_error_is_told_with_the_tail_of_its_log():
    error = TrainerError({"code": "non_finite_loss", "message": "nan at step 3", "hint": "lower it"}, "last line")
    assert outcomes.facts_of(held_by(None), error) == {
        "code": "non_finite_loss",
        "message": "nan at step 3",
        "hint": "lower it",
        "stage": "train",
        "log_tail": "last line",
    }


def test_an_error_we_can_explain_keeps_its_code_and_one_we_cannot_is_internal():
    assert outcomes.facts_of(held_by(None), DataError("bad", hint="mend"))["code"] == "bad_data"
    facts = outcomes.facts_of(held_by(None), ValueError("what\nmore"))
    assert (facts["code"], facts["message"]) == ("internal", "ValueError: what")


class Training:
    """A job that trains on a T4; ``fail`` ends its attempt with an error and gives the row."""

    def __init__(self, database):
        self.database = database
        self.register()

    def transact(self, change):
        with self.database.transaction(Scope.everything) as session:
            return change(session)

    def register(self, name=WORKER, gib=16, gpu_type="t4"):
        facts = {"host": "here", "kind": "gpu", "pid": 1, "gpu_type": gpu_type, "memory_bytes": gib * GIB}
        self.transact(lambda session: workers.register(session, name, **facts))

    def begin(self):
        spec = parse_spec({"base_model": "base", "dataset": "/d.jsonl"})
        self.transact(lambda session: accept.submit(session, job_id="j", spec=spec))
        self.claim(1, Stage.PREPARE)
        values = {"base": BASE, "resolved": RESOLVED}
        self.transact(lambda session: transitions.advance(session, Claim("j", 1, WORKER), Stage.PREPARE, values))
        self.claim(1)

    def claim(self, attempt, stage=Stage.TRAIN):
        options = {"worker_id": WORKER, "lease_s": 90, "gpu_type": "t4"}
        self.transact(lambda session: transitions.send(session, "j", attempt, stage, queue="q", gpu_type="t4"))
        assert self.transact(lambda session: transitions.claim(session, "j", attempt, stage, **options)) is not None

    def again(self):
        self.claim(self.row().attempt)

    def fail(self, code, **facts):
        error = TrainerError({"code": code, "message": f"a {code}", **facts}, "tail")
        outcomes.fail(held_by(self.database, self.row()), error)
        return self.row()

    def row(self, kind=Job, key="j"):
        with self.database.session(Scope.everything) as session:
            return session.get_one(kind, key)

    def events(self):
        with self.database.session(Scope.everything) as session:
            return [event.kind for event in session.query(Event).order_by(Event.id)]


@pytest.fixture
def training(database, monkeypatch):
    monkeypatch.setattr(results, "announce", lambda *_args, **_options: True)
    return Training(database)


def test_what_would_only_fail_again_ends_the_job_with_cause_advice_and_log(training):
    training.begin()
    job = training.fail("diverged")
    assert job.status is Status.FAILED
    assert (job.error["code"], job.error["message"], job.error["log_tail"]) == ("diverged", "a diverged", "tail")
    assert "learning rate" in job.error["hint"]


def test_an_unknown_error_waits_longer_each_time_and_ends_after_three_attempts(training):
    training.begin()
    waits = []
    for _ in range(2):
        job = training.fail("internal")
        assert (job.status, job.reason) == (Status.PENDING, Reason.RETRYING)
        waits.append(round((job.not_before - job.updated_at).total_seconds()))
        training.again()
    assert waits == [10, 20]
    assert training.fail("internal").status is Status.FAILED
    assert training.row().faults == {"internal": 2}


def test_out_of_memory_halves_the_micro_batch_and_pays_no_attempt(training):
    training.begin()
    job = training.fail("out_of_memory", facts={"micro_batch": 4})
    assert (job.status, job.reason, job.stale_attempts) == (Status.PENDING, Reason.ADJUSTED, 0)
    assert job.adjusted["micro_batch"] == 2
    assert "adjusted" in training.events()


def test_the_next_job_of_that_base_type_and_length_begins_with_what_was_learned(training):
    training.begin()
    training.fail("out_of_memory", facts={"micro_batch": 4})
    with_it = training.transact(lambda session: failures.safe_batch(session, BASE, "t4", 512))
    assert with_it.micro_batch == 2
    assert training.transact(lambda session: failures.safe_batch(session, BASE, "t4", 1024)) is None
    assert training.transact(lambda session: failures.safe_batch(session, BASE, "h100", 512)) is None


def test_the_whole_ladder_ends_at_a_larger_device_or_with_an_error(training):
    training.begin()
    seen = []
    for _ in range(3):
        job = training.fail("out_of_memory")
        seen.append((job.adjusted["micro_batch"], job.adjusted["gradient_checkpointing"]))
        training.again()
    assert seen == [(2, None), (1, None), (1, True)]
    training.register("h100-0@there", 80, "h100")
    job = training.fail("out_of_memory")
    assert (job.status, job.least_memory_bytes) == (Status.PENDING, 16 * GIB + 1)


def test_without_a_larger_device_the_ladder_ends_the_job(training):
    training.begin()
    for _ in range(3):
        training.fail("out_of_memory")
        training.again()
    job = training.fail("out_of_memory")
    assert (job.status, job.error["code"]) == (Status.FAILED, "out_of_memory")


def test_two_device_errors_in_a_row_make_the_worker_unhealthy_and_cost_the_job_nothing(training):
    training.begin()
    job = training.fail("device")
    assert (job.status, job.stale_attempts, job.not_before) == (Status.PENDING, 0, None)
    assert training.row(Worker, WORKER).health == "ok"
    training.again()
    job = training.fail("device")
    worker = training.row(Worker, WORKER)
    assert (job.status, job.stale_attempts) == (Status.PENDING, 0)
    assert (worker.health, worker.note) == ("unhealthy", "2 device errors in a row; last: a device")
    assert "worker_unhealthy" in training.events()


def test_a_worker_that_lost_the_job_writes_nothing(training, database):
    training.begin()
    late = SimpleNamespace(id="j", attempt=training.row().attempt + 1, stage=Stage.TRAIN)
    outcomes.fail(held_by(database, late), TrainerError({"code": "diverged", "message": "m"}))
    assert training.row().status is Status.RUNNING


def test_a_note_of_an_attempt_that_is_anothers_by_now_is_not_written(database):
    training = Training(database)
    training.begin()
    held = held_by(database, training.row())
    note(held, "info", "resumed", "while it is ours")
    reason = Reason.PREEMPTED
    training.transact(lambda session: transitions.release(session, Claim("j", 1, WORKER), reason))
    note(held, "info", "resumed", "of a worker that slept through its lease")
    with database.session(Scope.everything) as session:
        notes = [event.message for event in session.query(Event) if event.kind == "resumed"]
    assert notes == ["while it is ours"]


def test_the_caller_of_a_completed_job_has_its_result_at_the_commit(valkey, home, monkeypatch):
    """No worker and no tick runs here: the worker that publishes announces the job itself."""
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    get_settings.cache_clear()
    app = Celery("celora")
    app.conf.update(configuration(get_settings()))
    monkeypatch.setattr(results, "app", app)
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        spec = parse_spec({"base_model": "base", "dataset": "/d.jsonl"})
        accept.submit(session, job_id="j", spec=spec, request={"id": "j"})
        for stage in Stage:
            if stage in (Stage.PREPARE, Stage.TRAIN):
                transitions.send(session, "j", 1, stage, queue="q", gpu_type="t4")
            assert transitions.claim(session, "j", 1, stage, worker_id=WORKER, lease_s=90)
            if stage is not Stage.PUBLISH:
                assert transitions.advance(session, Claim("j", 1, WORKER), stage, {})
    job = SimpleNamespace(id="j", attempt=1, stage=Stage.PUBLISH)
    assert AsyncResult("j", app=app).state == "PENDING"
    outcomes.finish(held_by(database, job), {"summary": {"id": "j", "adapter": "file:///a"}})
    assert AsyncResult("j", app=app).get(timeout=240) == {"id": "j", "adapter": "file:///a"}
    with database.session(Scope.everything) as session:
        assert queries.unannounced(session) == []
    app.close()
