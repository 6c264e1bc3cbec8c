"""Earlier runs correct the time and the memory of a new job."""

from claimed_job import BASE, PREPARED
from sqlalchemy.orm import Session

from celora.models.database import now
from celora.models.jobs import accept
from celora.models.queue.history import family_of
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import MeasuredRun
from celora.workers.stages.prepare import prepare_data

DEVICES = [
    {"name": name, "train_s": 90.0, "evaluate_s": 10.0, "fits": True, "price_per_hour": 1.0} for name in ("h100", "l4")
]


def add_run(session: Session, number: int, gpu_type: str, **use):
    job_id = f"old-{gpu_type}-{number}"
    accept.submit(session, job_id=job_id, spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
    session.add(MeasuredRun(job_id=job_id, family=family_of(BASE), gpu_type=gpu_type, length_tokens=32, formula_s=100.0,
                            expected_s=100.0, at=now(session), **use))  # fmt: skip


def prepared(installation, trainer):
    trainer({"event": "done", "result": PREPARED | {"receipt": {"estimate": {"devices": DEVICES}}}})
    with installation.claimed(Stage.PREPARE) as stage:
        return prepare_data(stage)


def test_without_enough_runs_the_formula_stands(installation, trainer):
    with installation.database.transaction(Scope.everything) as session:
        add_run(session, 1, "h100", took_s=900.0)
    values = prepared(installation, trainer)
    assert values["expected_s"] == {"h100": 110.0, "l4": 110.0}
    assert values["prepared"]["receipt"]["estimate"]["devices"] == DEVICES


def test_the_seconds_are_corrected_by_type_and_the_memory_is_only_raised(installation, trainer):
    with installation.database.transaction(Scope.everything) as session:
        for number in range(10):
            add_run(session, number, "h100", took_s=150.0, formula_bytes=100, peak_bytes=130)
            add_run(session, number, "l4", took_s=80.0, formula_bytes=100, peak_bytes=70)
            add_run(session, number, "cpu", took_s=80.0, formula_bytes=100, peak_bytes=900)
    values = prepared(installation, trainer)
    assert values["expected_s"] == {"h100": 165.0, "l4": 88.0}
    assert values["memory_bytes"] == 1300
    rows = values["prepared"]["receipt"]["estimate"]["devices"]
    assert [row["history"] for row in rows] == [
        {"runs": 10, "factor": 1.5, "low": 1.5, "high": 1.5}, {"runs": 10, "factor": 0.8, "low": 0.8, "high": 0.8},
    ]  # fmt: skip
