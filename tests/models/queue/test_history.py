"""A completed job leaves its estimate and its use; a job of the same kind reads them."""

from datetime import timedelta

import pytest

from celora.models import queries
from celora.models.database import now
from celora.models.queue.history import factors, family_of, length_of, recent_factors
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import MeasuredRun

GIB = 2**30
BASE = {"name": "meta/llama-8b", "revision": "r", "parameters": 8_030_000_000, "model_type": "llama"}
DEVICE = {
    "name": "cpu", "fits": True, "train_s": 300.0, "evaluate_s": 100.0, "price_per_hour": 1.0,
    "memory_bytes": {"total": 8 * GIB}, "history": {"runs": 5, "factor": 1.5, "low": 1.0, "high": 2.0},
}  # fmt: skip
PREPARED = {"base": BASE, "prepared": {"max_length": 700, "receipt": {"estimate": {"devices": [DEVICE]}}}}


def complete(record, *, took_s=800.0, attempt=1):
    """Carry a prepared job to its end; its training and evaluation held the device for so long."""
    record.bring(Status.RUNNING, Stage.PREPARE)
    record.advance(Claim("job", 1, "cpu-0@here"), Stage.PREPARE, PREPARED)
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        if stage is Stage.TRAIN:
            record.send("job", 1, stage, queue="gpu.cpu", gpu_type="cpu")
        record.claim("job", 1, stage, worker_id="cpu-0@here", lease_s=9000)
        values = {"result": {"peak_memory_bytes": 6 * GIB}} if stage is Stage.TRAIN else {}
        with record.database.transaction(Scope.everything) as session:
            job = queries.get_job(session, "job")
            if stage is Stage.PUBLISH:
                job.gpu_seconds, job.attempt = took_s, attempt
            claim = Claim("job", job.attempt, "cpu-0@here")
        record.advance(claim, stage, values)
    assert record.job().status is Status.COMPLETED


def runs(record):
    with record.database.session(Scope.everything) as session:
        return list(session.query(MeasuredRun))


def test_a_completed_job_leaves_estimate_and_use(record):
    complete(record)
    (run,) = runs(record)
    assert (run.family, run.gpu_type, run.length_tokens) == ("llama 8B", "cpu", 1024)
    assert (run.formula_s, run.expected_s, run.took_s) == (410.0, 615.0, 800.0)
    assert (run.formula_bytes, run.peak_bytes) == (8 * GIB, 6 * GIB)
    with record.database.session(Scope.everything) as session:
        assert factors(session, BASE, 900)["cpu"].seconds == [800 / 410]
        assert factors(session, BASE, 900)["cpu"].memory == [0.75]
        assert factors(session, {**BASE, "model_type": "qwen3"}, 900) == {}
        assert recent_factors(session) == [pytest.approx(800 / 615)]


def test_a_job_shows_its_estimate_beside_its_use(record):
    complete(record)
    with record.database.session(Scope.everything) as session:
        assert queries.job_detail(session, "job").estimate == {
            "gpu_type": "cpu", "seconds": 615.0, "low_s": 410.0, "high_s": 820.0, "runs": 5, "took_s": 800.0,
            "memory_bytes": 8 * GIB, "peak_memory_bytes": 6 * GIB,
        }  # fmt: skip


def test_a_job_without_a_receipt_shows_none_and_leaves_no_run(record):
    record.bring(Status.COMPLETED)
    assert runs(record) == []
    with record.database.session(Scope.everything) as session:
        assert queries.job_detail(session, "job").estimate is None


def test_a_second_attempt_holds_work_that_was_done_twice_and_counts_not(record):
    complete(record, attempt=2)
    assert runs(record) == []


def test_runs_of_the_same_length_are_preferred_where_there_are_enough_and_the_latest_count(record):
    record.new()
    with record.database.transaction(Scope.everything) as session:
        at = now(session)
    for number in range(60):
        record.new(f"old-{number}")
        with record.database.transaction(Scope.everything) as session:
            length, took_s = (512, 100.0 + number) if number < 57 else (4096, 1000.0)
            session.add(MeasuredRun(job_id=f"old-{number}", family="llama 8B", gpu_type="h100", length_tokens=length,
                                    formula_s=100.0, expected_s=100.0, took_s=took_s,
                                    at=at - timedelta(minutes=number)))  # fmt: skip
    with record.database.session(Scope.everything) as session:
        short, long, between = (factors(session, BASE, tokens)["h100"].seconds for tokens in (512, 4000, 1000))
    assert short == pytest.approx([1.0 + number / 100 for number in range(50)])
    assert long == [10.0] * 3
    assert between == short


def test_families_are_the_architecture_and_two_digits_of_the_size():
    assert family_of(BASE) == "llama 8B"
    assert family_of({"model_type": "llama", "parameters": 134_515_008}) == "llama 0.13B"
    assert family_of({}) == "unknown 0B"
    assert len(family_of({"model_type": "x" * 900})) == 64
    assert [length_of(tokens) for tokens in (1, 2, 512, 513, 1024)] == [1, 2, 512, 1024, 1024]
