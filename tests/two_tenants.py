"""The same rows of every table that is limited by a scope, for two tenants."""

from datetime import UTC, datetime, timedelta

from celora.models.scope.scope import CHILDREN, OWNED
from celora.models.states import Stage, Status
from celora.models.tables import (
    Adapter,
    Announcement,
    ApiKey,
    Attempt,
    AuditEntry,
    Champion,
    ChampionEvent,
    Charge,
    Checkpoint,
    DataCheck,
    Dataset,
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
    MetricPoint,
    Rating,
    Receiver,
    Schedule,
    ScheduleRun,
    Tenant,
    TenantUse,
    Upload,
    UploadPart,
)

OURS, THEIRS = "team-a", "team-b"
LIMITED = (*OWNED, *CHILDREN)
AT = datetime(2026, 11, 30, tzinfo=UTC)


def new_job(tenant, job_id, **columns):
    return Job(**{"id": job_id, "tenant": tenant, "status": Status.COMPLETED, "stage": Stage.PUBLISH, "gpu": "cpu",
                  "created_at": AT, "updated_at": AT, "spec": {}, "warnings": [], **columns})  # fmt: skip


def rows_of(tenant):
    """A row of each limited table; parents come first."""
    job, adapter = f"job-{tenant}", {"name": "a", "base_name": "b", "base_revision": "r", "uri": "file:///a", "rank": 8}
    yield Tenant(name=tenant, created_at=AT)
    yield new_job(tenant, job)
    yield Adapter(id=job, tenant=tenant, created_at=AT, **adapter)
    yield Announcement(job_id=job, created_at=AT)
    yield Attempt(job_id=job, number=1, worker_id="w", stage=Stage.TRAIN, started_at=AT)
    yield Checkpoint(job_id=job, attempt=1, step=3, uri="c", size_bytes=1, manifest_sha256="0" * 64, created_at=AT)
    yield Event(job_id=job, attempt=1, at=AT, level="info", kind="note", message=f"of {tenant}")
    yield MetricPoint(job_id=job, attempt=1, step=3, at=AT, train_loss=1.0)
    yield LaneReason(stage="train", job_class="normal", gpu="auto", labels="", tenant=tenant, above_bytes=0,
                     code="busy", facts={}, sentence="all are taken", since=AT)  # fmt: skip
    yield TenantUse(tenant=tenant, gpu_seconds=1.0, at=AT)
    yield Champion(tenant=tenant, name="bot", job_id=job, version=1, since=AT)
    yield ChampionEvent(tenant=tenant, name="bot", kind="promoted", version=1, job_id=job, reason="first", at=AT)
    dataset = (OURS, THEIRS).index(tenant) + 1
    yield Dataset(
        id=dataset, tenant=tenant, name="rows", version=1, sha256="1" * 64, uri="d", size_bytes=1, created_at=AT
    )
    yield File(id=f"file-{tenant}", tenant=tenant, filename="rows.jsonl", purpose="fine-tune", size_bytes=1, uri="d",
               sha256="1" * 64, status="processed", created_at=AT, check_sent_at=AT)  # fmt: skip
    yield Upload(id=f"upload-{tenant}", tenant=tenant, filename="rows.jsonl", purpose="fine-tune", size_bytes=1,
                 status="pending", created_at=AT, expires_at=AT + timedelta(days=9000))  # fmt: skip
    yield UploadPart(id=f"part-{tenant}", upload_id=f"upload-{tenant}", size_bytes=1, uri="p", created_at=AT)
    yield DataCheck(id=f"check-{tenant}", tenant=tenant, spec={}, file_names={}, created_at=AT, sent_at=AT,
                    expires_at=AT + timedelta(days=9000))  # fmt: skip
    yield JobDataset(job_id=job, role="train", dataset_id=dataset)
    yield JobLabel(job_id=job, key="k", value="v", tenant=tenant, created_at=AT)
    yield JobRequest(job_id=job, tenant=tenant, model="m", named="m", training_file="f", method="supervised",
                     hyperparameters={}, body_sha256="3" * 64, created_at=AT)  # fmt: skip
    yield IdempotencyKey(tenant=tenant, key="k", body_sha256="3" * 64, job_id=job, created_at=AT)
    yield Rating(tenant=tenant, one=job, other=job, held_out="eval", prompt_sha256="2" * 64, prompt="p", answer_one="a",
                 answer_other="b", choice="one", by="ada", at=AT)  # fmt: skip
    yield ApiKey(id=f"key-{tenant}", tenant=tenant, name="ci", sha256=f"{dataset}" * 64, shown="celora_abcd",
                 scopes=["read"], created_at=AT, created_by="ada")  # fmt: skip
    yield AuditEntry(at=AT, tenant=tenant, actor="ada", action="job.cancel", object=job, address="")
    yield LedgerMonth(tenant=tenant, month="2026-11", spent_ms=5, updated_at=AT)
    yield Hold(job_id=job, month="2026-11", basis="bytes", wanted_ms=0, wanted_micros=0, updated_at=AT)
    yield MeasuredRun(job_id=job, family="llama 8B", gpu_type="h100", length_tokens=512, formula_s=9.0, expected_s=9.0,
                      took_s=9.0, at=AT)  # fmt: skip
    yield Charge(job_id=job, attempt=1, month="2026-11", device_ms=5, at=AT)
    yield Schedule(id=f"s-{tenant}", tenant=tenant, name="weekly", cron="0 3 * * 1", spec={}, missed="run_once",
                   overlap="skip", created_at=AT, updated_at=AT, last_slot=AT)  # fmt: skip
    yield ScheduleRun(schedule_id=f"s-{tenant}", key="k", at=AT, created_at=AT, outcome="submitted", job_id=job)
    yield Receiver(id=f"r-{tenant}", tenant=tenant, kind="webhook", name="ci", url=f"https://hooks.example.org/{tenant}",
                   notices=["done"], sealed="s", hint="…", created_at=AT, updated_at=AT)  # fmt: skip
    yield Delivery(id=900_000 + dataset, receiver_id=f"r-{tenant}", event_id="evt_1", notice="done", subject=job,
                   job_id=job, facts={}, created_at=AT, since=AT, next_at=AT, tries=[])  # fmt: skip


def owner_of(row):
    """The tenant that a row of ``rows_of`` was made for."""
    table = type(row)
    if table in OWNED:
        return getattr(row, OWNED[table])
    return getattr(row, CHILDREN[table][0]).split("-", 1)[1]
