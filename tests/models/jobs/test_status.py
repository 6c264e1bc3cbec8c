"""A job's status changes in one place, with the event that says so."""

import ast
from pathlib import Path

import celora.models
from celora.models.events import record_event
from celora.models.jobs.status import Cause, switch_status
from celora.models.rows import lock_if
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Status
from celora.models.tables import Event

ROOT = Path(celora.models.__path__[0]).parent


def assignments_of(name):
    """Where product code assigns an attribute of that name to an object, as ``room/module.py``."""
    for path in sorted(ROOT.glob("[a-z]*/**/*.py")):
        if path.relative_to(ROOT).parts[0] in ("tests", "docs", "benchmarks", "examples", "build"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            flat = [part for target in targets for part in getattr(target, "elts", [target])]
            if any(isinstance(part, ast.Attribute) and part.attr == name for part in flat):
                yield path.relative_to(ROOT).as_posix()


def test_only_one_module_assigns_the_status_of_a_job():
    others = {  # the status of a worker, of a file, of an upload, of an answer, of another server's answer
        "services/chat/serving_server.py",
        "models/workers.py",
        "models/openai/files.py",
        "models/openai/uploads.py",
        "errors/__init__.py",
    }
    assert set(assignments_of("status")) - others == {"models/jobs/status.py"}


def test_a_change_of_status_clears_the_claim_and_writes_its_event(record):
    record.bring(Status.RUNNING)
    with record.database.transaction(Scope.everything) as session:
        job = lock_if(session, "job")
        switch_status(session, job, Status.PENDING, Cause("released", "given back", {"a": 1}), reason=Reason.PREEMPTED)
    job = record.job()
    assert (job.status, job.reason) == (Status.PENDING, Reason.PREEMPTED)
    assert (job.worker_id, job.lease_until, job.claimed_at) == (None, None, None)
    with record.database.session(Scope.everything) as session:
        event = session.query(Event).order_by(Event.id.desc()).first()
    assert (event.level, event.kind, event.message, event.data) == ("info", "released", "given back", {"a": 1})
    assert event.attempt == 1


def test_a_running_job_keeps_its_claim(record):
    job = record.bring(Status.RUNNING)
    with record.database.transaction(Scope.everything) as session:
        row = lock_if(session, "job")
        switch_status(session, row, Status.RUNNING, Cause("note", "still here"))
        record_event(session, "job", 1, "info", "note", "another")
    assert record.job().worker_id == job.worker_id
