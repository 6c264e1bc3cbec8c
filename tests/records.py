"""Records with jobs in every state, for tests of what reads, copies or migrates a whole record."""

from dataclasses import fields
from datetime import timedelta

from sqlalchemy import insert, select, text

from celora.models import datasets, events, workers
from celora.models.database import now
from celora.models.jobs import accept, outbox, progress, reaper_watch, requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import JobClass, Reason, Ruling, Stage, Status
from celora.models.tables import (
    ApiKey,
    AuditEntry,
    Charge,
    DataCheck,
    Delivery,
    Event,
    File,
    Hold,
    IdempotencyKey,
    Job,
    JobDataset,
    JobLabel,
    JobRequest,
    LaneReason,
    LedgerMonth,
    MeasuredRun,
    Receiver,
    SafeBatch,
    Table,
    Tenant,
    TenantUse,
    Upload,
    UploadPart,
)
from celora.models.tables.champion import Champion, ChampionEvent, Rating
from celora.models.tables.schedule import Schedule, ScheduleRun
from celora.models.views import JobDetail

WORKER, GPU = "cpu-0@here", {"queue": "gpu.cpu", "gpu_type": "cpu"}
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "user": "ada"}
ADAPTER = {"name": "a", "uri": "file:///a", "base_name": "tiny", "base_revision": "r", "rank": 8, "metrics": None}


def fill(database):
    """Fill an empty record through the transitions: nine jobs of two tenants, four workers, rows in every table."""
    record = _Filling(database)
    record.register(WORKER, host="here", kind="gpu", gpu_type="cpu", memory_bytes=2**33, pid=1, queues=["gpu.cpu"])
    record.register("l4-0@there", host="there", kind="gpu", gpu_type="l4", pid=2, queues=["gpu.l4"])
    record.register("prep@here", host="here", kind="prep", pid=3, queues=["prep"])
    record.register("old@here", host="here", kind="control", pid=4, queues=["celora"])
    record.mark_offline("old@here")
    for message in ("Xid 79", "Xid 79"):
        record.count_device_fault("l4-0@there", message)
    for job_id in ("done", "running", "failed", "cancelled", "lost", "retried"):
        record.submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": "acme"}), request={"id": job_id})
    for job_id in ("waiting", "paused", "any"):
        gpu = "auto" if job_id == "any" else "cpu"
        record.submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": "other", "gpu": gpu}))
    for stage in Stage:
        record.do("done", stage, adapter=ADAPTER if stage is Stage.PUBLISH else None)
    for job_id in ("running", "failed", "lost", "retried", "any"):
        record.do(job_id, Stage.PREPARE)
    record.begin("running", Stage.TRAIN)
    figures = {"step": 3, "steps": 9, "tokens_per_s": 250.0, "gpu_memory_bytes": 2**30, "gpu_utilisation": 93}
    record.record_progress(Claim("running", 1, WORKER), figures)
    record.record_metric_points(Claim("running", 1, WORKER), [{"step": 3, "train_loss": 1.5, "tokens_per_s": 250.0}])
    facts = {"uri": "file:///c", "size_bytes": 5, "manifest_sha256": "0" * 64}
    record.record_checkpoint(Claim("running", 1, WORKER), step=3, **facts)
    record.begin("failed", Stage.TRAIN)
    record.fail(Claim("failed", 1, WORKER, 3600.0), {"code": "diverged", "message": "loss 9"})
    record.begin("retried", Stage.TRAIN)
    record.try_again(
        Claim("retried", 1, WORKER), {"code": "device", "message": "Xid"}, Ruling(again=True, reason=Reason.RETRYING)
    )
    record.begin("lost", Stage.TRAIN)
    with database.transaction(Scope.everything) as session:
        later = now(session) + timedelta(seconds=30)
        session.get_one(Job, "running").lease_until = later + timedelta(hours=1)
        session.get_one(Job, "lost").lease_until = later - timedelta(seconds=20)
        transitions.expire(session, later, 3)
        session.get_one(Job, "running").lease_until = later + timedelta(seconds=40)
        reaper_watch.watch(session, "reaper", lapse_s=60)
        session.add(SafeBatch(base="tiny", gpu_type="cpu", max_length=64, micro_batch=2, gradient_checkpointing=False,
                              updated_at=later))  # fmt: skip
        data = datasets.register(session, tenant="acme", name="rows", sha256="1" * 64, uri="file:///d",
                                            size_bytes=3_000_000_000, file_name="Größe 训练.jsonl")  # fmt: skip
        session.add(JobDataset(job_id="done", role="train", dataset_id=data.id))
        session.add(JobLabel(job_id="done", key="k", value="v", tenant="acme", created_at=later))
        session.add(JobRequest(job_id="done", tenant="acme", model="tiny", named="tiny", training_file="file-1",
                               method="supervised", hyperparameters={}, body_sha256="3" * 64,
                               created_at=later))  # fmt: skip
        session.add(IdempotencyKey(tenant="acme", key="k", body_sha256="3" * 64, job_id="done", created_at=later))
        session.add(File(id="file-1", tenant="acme", filename="rows.jsonl", purpose="fine-tune", size_bytes=3, rows=1,
                         sha256="1" * 64, uri="file:///d", status="processed", created_at=later,
                         check_sent_at=later))  # fmt: skip
        session.add(DataCheck(id="check-1", tenant="acme", spec=SPEC, file_names={"train": "rows.jsonl"}, tries=1,
                              result={"receipt": {"ok": True}, "error": None}, created_at=later, sent_at=later,
                              expires_at=later))  # fmt: skip
        session.add(Receiver(id="whep_1", tenant="acme", kind="webhook", name="ci", url="https://hooks.example.org",
                             notices=["done"], sealed="s", hint="abcd", created_at=later,
                             updated_at=later))  # fmt: skip
        session.flush()
        session.add(Delivery(receiver_id="whep_1", event_id="evt_1", notice="done", subject="done", job_id="done",
                             facts={"n": 1}, created_at=later, since=later, next_at=later,
                             tries=[{"status": 500}]))  # fmt: skip
        session.add(Upload(id="upload-1", tenant="acme", filename="rows.jsonl", purpose="fine-tune", size_bytes=3,
                           status="pending", created_at=later, expires_at=later))  # fmt: skip
        session.flush()
        session.add(UploadPart(id="part_1", upload_id="upload-1", size_bytes=3, uri="file:///p", created_at=later))
        _keep_fresh(session, later)
        _keep_the_books(session, later)
    record.request_cancel("cancelled")
    record.request_pause("paused")


def _keep_fresh(session, at):
    """A schedule with a slot, a champion with its history, and what a person thought of two answers."""
    spec = {**SPEC, "tenant": "acme"}
    session.add(Schedule(id="s", tenant="acme", name="weekly", cron="0 3 * * 1", spec=spec, missed="run_once",
                         overlap="skip", created_at=at, updated_at=at, last_slot=at))  # fmt: skip
    session.flush()
    session.add(ScheduleRun(schedule_id="s", key="k", at=at, created_at=at, outcome="submitted", job_id="done"))
    session.add(Champion(tenant="acme", name="bot", job_id="done", version=1, since=at))
    session.add(LaneReason(stage=Stage.TRAIN, job_class=JobClass.NORMAL, gpu="auto", labels="", tenant="acme",
                           above_bytes=0, code="no_gpu_worker", facts={}, sentence="no worker", since=at))  # fmt: skip
    session.merge(TenantUse(tenant="acme", gpu_seconds=5.0, at=at, competes=True))
    session.add(MeasuredRun(job_id="done", family="llama 8B", gpu_type="cpu", length_tokens=64, formula_s=9.0,
                            expected_s=9.5, took_s=10.0, formula_bytes=2**40, peak_bytes=None, at=at))  # fmt: skip
    session.add(
        ChampionEvent(tenant="acme", name="bot", kind="promoted", version=1, job_id="done", reason="first", at=at)
    )
    session.add(Rating(tenant="acme", one="done", other="done", held_out="eval", prompt_sha256="2" * 64, prompt="p",
                       answer_one="a", answer_other="b", choice="one", by="ada", at=at))  # fmt: skip


def _keep_the_books(session, at):
    """A key, a change of a person, and a month's use."""
    session.add(ApiKey(id="key", tenant="acme", name="ci", sha256="3" * 64, shown="celora_abcd", scopes=["read"],
                       created_at=at, created_by="ada"))  # fmt: skip
    session.add(AuditEntry(at=at, tenant="acme", actor="ada", action="job.cancel", object="cancelled", address="here"))
    session.merge(LedgerMonth(tenant="acme", month="2026-10", spent_ms=5, spent_micros=7, updated_at=at))
    session.merge(Hold(job_id="running", month="2026-10", basis="bytes", wanted_ms=0, wanted_micros=0,
                       updated_at=at))  # fmt: skip
    session.merge(Charge(job_id="done", attempt=1, month="2026-10", device_ms=5, cost_micros=7, at=at))


def empty(database):
    """Delete every row, in one transaction; quicker than another database."""
    statements = [str(table.delete()) for table in reversed(Table.metadata.sorted_tables)]
    with database.transaction(Scope.everything) as session:
        one_at_a_time = database.url.get_backend_name() == "sqlite"
        before, after = _without_the_guard(session, sqlite=one_at_a_time)
        statements = [*before, *statements, *after]
        for statement in statements if one_at_a_time else ["; ".join(statements)]:
            session.connection().exec_driver_sql(statement)


def _without_the_guard(session, *, sqlite):
    """The statements that switch the triggers of the audit off and on again, where it has rows."""
    if not session.scalar(select(AuditEntry.id).limit(1)):
        return [], []
    if not sqlite:
        return ["ALTER TABLE audit DISABLE TRIGGER audit_is_kept"], ["ALTER TABLE audit ENABLE TRIGGER audit_is_kept"]
    made = session.execute(text("SELECT name, sql FROM sqlite_master WHERE tbl_name = 'audit' AND type = 'trigger'"))
    triggers = list(made)
    return [f"DROP TRIGGER {name}" for name, _ in triggers], [sql for _, sql in triggers]


def many(database, jobs, events=4):
    """Add so many jobs as a busy month leaves them, in plain inserts: 20 of 100 wait, 2 run."""
    with database.transaction(Scope.everything) as session:
        at = now(session) - timedelta(days=1)
        session.execute(insert(Tenant), [{"name": f"t{number}", "created_at": at} for number in range(10)])
        lease = now(session) + timedelta(seconds=60)
        for start in range(0, jobs, 1000):
            numbers = range(start, min(jobs, start + 1000))
            session.execute(insert(Job), [_job(number, at + timedelta(seconds=number), lease) for number in numbers])
            session.execute(
                insert(Event),
                [{"job_id": f"job-{number:06}", "attempt": 1, "at": at, "level": "info", "kind": "stage_finished",
                  "message": "m" * 60, "data": {"stage": stage.value, "seconds": float(number)}}
                 for number in numbers for stage in list(Stage)[:events]],
            )  # fmt: skip


def _job(number, at, lease):
    place = number % 100
    status = (
        Status.PENDING if place < 20 else Status.RUNNING if place < 22 else Status.FAILED if place < 30
        else Status.COMPLETED
    )  # fmt: skip
    final, runs = status.final, status is Status.RUNNING
    return {
        "id": f"job-{number:06}", "tenant": f"t{number % 10}", "user": "u", "status": status, "gpu": "auto",
        "stage": Stage.PUBLISH if final else Stage.TRAIN, "gpu_type": None if status is Status.PENDING else "l4",
        "queue": "gpu.l4", "worker_id": f"w{number}" if runs else None, "lease_until": lease if runs else None,
        "created_at": at, "updated_at": at, "finished_at": at if final else None, "warnings": [],
        "spec": {"x": "s" * 1500}, "prepared": {"x": "p" * 4000}, "evaluation": {"x": "e" * 5000} if final else None,
        "progress": {"tokens_per_s": 100.0}, "cost": 1.0, "gpu_seconds": 10.0,
        "error": {"code": "bad_data"} if status is Status.FAILED else None,
    }  # fmt: skip


def detail(**known):
    """The view of a job with these facts; every other field is empty."""
    status, stage = Status(known.pop("status", "pending")), Stage(known.pop("stage", "prepare"))
    empty = dict.fromkeys((each.name for each in fields(JobDetail)), None)
    return JobDetail(**{**empty, "status": status, "stage": stage, "reason": Reason.NONE, "preference": [], **known})


class Verbs:
    """The record's writes by their own names, each in a transaction of its own."""

    MODULES = (accept, transitions, requests, progress, outbox, events, workers)

    def __init__(self, database):
        self.database = database

    def __getattr__(self, name):
        verb = next((getattr(module, name) for module in self.MODULES if hasattr(module, name)), None)
        if verb is None:
            raise AttributeError(f"the record has no {name}")

        def run(*args, **options):
            with self.database.transaction(Scope.everything) as session:
                return verb(session, *args, **options)

        return run


class _Filling(Verbs):
    def begin(self, job_id, stage):
        with self.database.session(Scope.everything) as session:
            pending = session.get_one(Job, job_id).status is Status.PENDING
        where = GPU if stage.on_gpu else {"queue": "prep"}
        assert not pending or self.send(job_id, 1, stage, **where)
        assert self.claim(job_id, 1, stage, worker_id=WORKER, lease_s=90)

    def do(self, job_id, stage, adapter=None):
        self.begin(job_id, stage)
        values = {"adapter": adapter} if adapter else {}
        assert self.advance(Claim(job_id, 1, WORKER, 3600.0), stage, values)
