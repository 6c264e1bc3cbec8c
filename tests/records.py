"""Records with jobs in every state, for tests of what reads, copies or migrates a whole record."""

from datetime import timedelta

from sqlalchemy import insert

from celora.models import beacon, transitions
from celora.models.champion_tables import Champion, ChampionEvent, Rating
from celora.models.database import now
from celora.models.schedule_tables import Schedule, Slot
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Event, Job, JobDataset, SafeBatch, Tenant

WORKER, GPU = "cpu-0@here", {"queue": "gpu.cpu", "gpu_type": "cpu"}
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "user": "ada"}
ADAPTER = {"name": "a", "uri": "file:///a", "base_name": "tiny", "base_revision": "r", "rank": 8, "metrics": None}


def fill(database):
    """Fill an empty record through the transitions: nine jobs of two tenants, four workers, rows in every table."""
    record = _Verbs(database)
    record.register(WORKER, host="here", kind="gpu", gpu_type="cpu", memory_bytes=2**33, pid=1, queues=["gpu.cpu"])
    record.register("l4-0@there", host="there", kind="gpu", gpu_type="l4", pid=2, queues=["gpu.l4"])
    record.register("prep@here", host="here", kind="prep", pid=3, queues=["prep"])
    record.register("old@here", host="here", kind="control", pid=4, queues=["celora"])
    record.gone("old@here")
    for message in ("Xid 79", "Xid 79"):
        record.device_fault("l4-0@there", message)
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
    record.progress("running", 1, WORKER, {"step": 3, "steps": 9, "tokens_per_s": 250.0, "gpu_memory_bytes": 2**30,
                                           "gpu_utilisation": 93})  # fmt: skip
    record.metric_points("running", 1, WORKER, [{"step": 3, "train_loss": 1.5, "tokens_per_s": 250.0}])
    facts = {"uri": "file:///c", "size_bytes": 5, "manifest_sha256": "0" * 64}
    record.checkpoint("running", 1, WORKER, step=3, **facts)
    record.begin("failed", Stage.TRAIN)
    record.fail("failed", 1, worker_id=WORKER, error={"code": "diverged", "message": "loss 9"}, price_per_hour=3600.0)
    record.begin("retried", Stage.TRAIN)
    record.release("retried", 1, worker_id=WORKER, reason=Reason.RETRYING, error={"code": "device", "message": "Xid"})
    record.begin("lost", Stage.TRAIN)
    with database.transaction() as session:
        later = now(session) + timedelta(seconds=30)
        session.get_one(Job, "running").lease_until = later + timedelta(hours=1)
        session.get_one(Job, "lost").lease_until = later - timedelta(seconds=20)
        transitions.expire(session, later, 3)
        session.get_one(Job, "running").lease_until = later + timedelta(seconds=40)
        beacon.watch(session, "reaper", lapse_s=60)
        session.add(SafeBatch(base="tiny", gpu_type="cpu", max_length=64, micro_batch=2, gradient_checkpointing=False,
                              updated_at=later))  # fmt: skip
        data = transitions.register_dataset(session, tenant="acme", name="rows", sha256="1" * 64, uri="file:///d",
                                            size_bytes=3_000_000_000)  # fmt: skip
        session.add(JobDataset(job_id="done", role="train", dataset_id=data.id))
        _keep_fresh(session, later)
    record.request_cancel("cancelled")
    record.request_pause("paused")


def _keep_fresh(session, at):
    """A schedule with a slot, a champion with its history, and what a person thought of two answers."""
    spec = {**SPEC, "tenant": "acme"}
    session.add(Schedule(id="s", tenant="acme", name="weekly", cron="0 3 * * 1", spec=spec, missed="run_once",
                         overlap="skip", created_at=at, updated_at=at, last_slot=at))  # fmt: skip
    session.flush()
    session.add(Slot(schedule_id="s", key="k", at=at, created_at=at, outcome="submitted", job_id="done"))
    session.add(Champion(tenant="acme", name="bot", job_id="done", version=1, since=at))
    session.add(
        ChampionEvent(tenant="acme", name="bot", kind="promoted", version=1, job_id="done", reason="first", at=at)
    )
    session.add(Rating(tenant="acme", one="done", other="done", held_out="eval", prompt_sha256="2" * 64, prompt="p",
                       answer_one="a", answer_other="b", choice="one", by="ada", at=at))  # fmt: skip


def many(database, jobs, events=4):
    """Add so many jobs as a busy month leaves them, in plain inserts: 20 of 100 wait, 2 run."""
    with database.transaction() as session:
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


class _Verbs:
    """The transitions, each in a transaction of its own."""

    def __init__(self, database):
        self._database = database

    def __getattr__(self, name):
        verb = getattr(transitions, name)

        def run(*args, **options):
            with self._database.transaction() as session:
                return verb(session, *args, **options)

        return run

    def begin(self, job_id, stage):
        with self._database.session() as session:
            pending = session.get_one(Job, job_id).status is Status.PENDING
        where = GPU if stage.on_gpu else {"queue": "prep"}
        assert not pending or self.send(job_id, 1, stage, **where)
        assert self.claim(job_id, 1, stage, worker_id=WORKER, lease_s=90)

    def do(self, job_id, stage, adapter=None):
        self.begin(job_id, stage)
        values = {"adapter": adapter} if adapter else {}
        assert self.advance(job_id, 1, stage, worker_id=WORKER, values=values, price_per_hour=3600.0)
