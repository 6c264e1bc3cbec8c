"""A ruling upon a failed attempt is recorded with all its consequences."""

import pytest

from celora.models import queries
from celora.models.jobs import failures
from celora.models.rows import Claim, lock_if, owned
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import SafeBatch, Worker
from celora.tuning.recipe import Adjusted

WORKER = "cpu-0@here"
ERROR = {"code": "out_of_memory", "message": "CUDA out of memory", "hint": "", "stage": "train", "log_tail": ""}
BASE = {"name": "tiny", "revision": "r1"}


@pytest.fixture
def training(record):
    """A job that trains with a known base and length on a registered worker."""
    facts = {"kind": "gpu", "queues": ["gpu.cpu"], "memory_bytes": 24, "gpu_type": "cpu", "host": "here", "pid": 1}
    record.register(WORKER, **facts)
    record.bring(Status.RUNNING, Stage.PREPARE)
    record.advance(Claim("job", 1, WORKER), "prepare", {"base": BASE, "prepared": {"max_length": 64}})
    record.send("job", 1, "train", queue="gpu.cpu", gpu_type="cpu")
    return record.claim("job", 1, "train", worker_id=WORKER, lease_s=90)


@pytest.fixture
def settle(record):
    def run(error=ERROR, *, again=True, **ruling):
        claim = Claim("job", record.job().attempt, WORKER)
        with record.database.transaction(Scope.everything) as session:
            job = lock_if(session, "job", *owned(claim))
            return failures.settle(session, job, claim, error, Ruling(again=again, **ruling))

    return run


@pytest.fixture
def known(record):
    """What is remembered of the base on a GPU type at a length."""

    def of(length=64, gpu_type="cpu", base=BASE):
        with record.database.session(Scope.everything) as session:
            return failures.safe_batch(session, base, gpu_type, length)

    return of


def kinds(record):
    with record.database.session(Scope.everything) as session:
        return [event["kind"] for event in queries.events(session, "job")]


@pytest.mark.usefixtures("training")
def test_what_ends_a_job_ends_it_with_its_error(record, settle, legal_history):
    assert settle(again=False)
    job = record.job()
    assert (job.status, job.error["code"]) == (Status.FAILED, "out_of_memory")
    with record.database.session(Scope.everything) as session:
        assert legal_history(queries.events(session, "job")) == []


@pytest.mark.usefixtures("training")
def test_what_is_tried_again_waits_and_keeps_to_what_was_ruled(record, settle, legal_history):
    smaller = {"micro_batch": 2, "gradient_checkpointing": True, "why": "halved"}
    assert settle(
        reason=Reason.ADJUSTED,
        wait_s=60,
        adjusted=Adjusted(**smaller),
        least_memory_bytes=48,
        words="halved",
        paid=False,
    )
    job = record.job()
    assert (job.status, job.attempt, job.stale_attempts, job.reason) == (Status.PENDING, 2, 0, Reason.ADJUSTED)
    assert (job.adjusted, job.least_memory_bytes, job.faults) == (smaller, 48, {"out_of_memory": 1})
    assert 55 < (job.not_before - job.updated_at).total_seconds() <= 60
    assert "adjusted" in kinds(record)
    with record.database.session(Scope.everything) as session:
        assert legal_history(queries.events(session, "job")) == []


@pytest.mark.usefixtures("training")
def test_a_size_that_is_safe_is_remembered_for_its_base_type_and_length_alone(record, settle, known):
    assert known() is None
    settle(adjusted=Adjusted(micro_batch=4))
    found = known()
    assert (found.micro_batch, found.gradient_checkpointing) == (4, None)
    assert "ran out of memory on cpu" in found.why
    assert known(length=128) is known(gpu_type="h100") is known(base={**BASE, "revision": "r2"}) is None
    record.send("job", 2, "train", queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, "train", worker_id=WORKER, lease_s=90)
    settle(adjusted=Adjusted(micro_batch=1, gradient_checkpointing=True))
    assert (known().micro_batch, known().gradient_checkpointing) == (1, True)
    with record.database.session(Scope.everything) as session:
        assert session.query(SafeBatch).count() == 1


@pytest.mark.usefixtures("training")
def test_a_device_that_is_blamed_twice_is_unhealthy_and_the_job_pays_for_neither(record, settle):
    error = {**ERROR, "code": "device", "message": "CUDA error: unspecified launch failure"}
    for attempt in (1, 2):
        settle(error, paid=False, blames_device=True)
        assert (record.job().attempt, record.job().stale_attempts) == (attempt + 1, 0)
        if attempt == 1:
            record.send("job", 2, "train", queue="gpu.cpu", gpu_type="cpu")
            record.claim("job", 2, "train", worker_id=WORKER, lease_s=90)
    with record.database.session(Scope.everything) as session:
        assert session.get(Worker, WORKER).health == "unhealthy"
    assert kinds(record).count("worker_unhealthy") == 1
    assert record.job().faults == {"device": 2}


@pytest.mark.usefixtures("training")
def test_a_cancel_that_was_asked_for_wins_over_another_try(record, settle):
    record.request_cancel("job")
    assert settle(again=True)
    assert record.job().status is Status.CANCELLED


def test_the_memory_of_a_worker_and_of_the_largest(record, training):
    facts = {"kind": "gpu", "queues": ["gpu.h100"], "memory_bytes": 80, "host": "there", "pid": 1}
    record.register("h100-0@there", **facts)
    with record.database.session(Scope.everything) as session:
        assert failures.memory_of(session, str(training.worker_id)) == (24, 80)
        assert failures.memory_of(session, "nobody") == (0, 80)


def test_a_long_name_of_a_base_fits_its_column_and_keeps_its_revision():
    key = failures.base_key({"name": "x" * 400, "revision": "abc"})
    assert len(key) == 255
    assert key.endswith("@abc")
