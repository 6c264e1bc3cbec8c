"""Records people's requests about a job: cancel it, pause it, resume it, retry it.

A waiting job changes at once. For a running one the request is recorded, and its worker, which reads it at each renewal
of the lease, stops the trainer first. Requests need no broker and no worker, since the record is the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ...errors import NotFoundError, SettingsError
from ..events import record_event
from ..queue.labels import label_text
from ..queue.wait_words import pause_words
from ..rows import lock_if
from ..spec import JobSpec, known_fields, parse_spec
from ..states import LIVE, JobClass, Reason, Stage, Status
from ..tables import Job
from ..tables.types import JsonObject
from ..tenants import ledger
from .accept import submit
from .lifecycle import close_attempt, end, return_to_front, start_next_attempt
from .limits import check_budget, set_budget
from .status import Cause

HARMLESS = frozenset(
    {
        "time_limit_minutes", "stage_time_limit_minutes", "gpu", "priority", "job_class", "labels", "metadata", "user",
        "suffix", "metrics", "eval_max_rows", "eval_max_new_tokens", "save_steps", "save_minutes", "micro_batch",
        "accumulation", "gradient_checkpointing", "report_to", "epoch_checkpoints", "wandb", "exclusive",
    }
)  # fmt: skip
"""Fields that a retry may change and still resume from the old job's checkpoint: they do not change the training."""


def request_cancel(session: Session, job_id: str, tenant: str | None = None) -> str:
    """Request that a job ends.

    Returns:
        ``cancelled`` (it waited; at once), ``cancelling`` (it runs; its worker will end it), ``final`` (it had ended).

    Raises:
        NotFoundError: There is no such job (of this tenant).
    """
    job = _live(session, job_id, tenant)
    if job is None:
        return "final"
    if job.status is Status.RUNNING:
        if not job.cancel_requested:
            job.cancel_requested, job.reason = True, Reason.CANCELLING
            record_event(session, job_id, job.attempt, "info", "cancel_requested", "a cancel was asked for")
        return "cancelling"
    job.cancel_requested = True
    end(session, job, Status.CANCELLED)
    return "cancelled"


def request_pause(session: Session, job_id: str, tenant: str | None = None) -> str:
    """Request that a job releases its GPU, or gets none, until ``resume``; its checkpoints stay.

    Returns:
        ``paused`` (it waited; at once), ``pausing`` (it runs; its worker will checkpoint and release it),
        ``cancelling`` (a cancel was requested before), ``final`` (it had ended).

    Raises:
        NotFoundError: There is no such job (of this tenant).
    """
    job = _live(session, job_id, tenant)
    if job is None:
        return "final"
    if job.cancel_requested:
        return "cancelling"
    if job.status is Status.RUNNING:
        job.pause_cause = None  # a person's pause stays until that person ends it
        if not job.pause_requested:
            job.pause_requested = True
            record_event(session, job_id, job.attempt, "info", "pause_requested", "a pause was asked for")
        return "pausing"
    if not job.paused:
        _pause_now(session, job)
    job.pause_cause = None
    return "paused"


def resume(session: Session, job_id: str, tenant: str | None = None, *, budget: float | None = None) -> bool:
    """Resume a paused job, at the front of its queue; a pause that has not happened yet is withdrawn.

    Args:
        session: An open session.
        job_id: The job.
        tenant: The tenant that must own the job.
        budget: The job's new budget; as before unless given.

    Returns:
        True if there was a pause to end.

    Raises:
        NotFoundError: There is no such job (of this tenant).
        SettingsError: The job has used its budget, and gets no larger one.
    """
    if budget is not None and (unfinished := _live(session, job_id, tenant)) is not None:
        set_budget(unfinished, budget)
    job = _live(session, job_id, tenant, (Job.paused.is_(True)) | (Job.pause_requested.is_(True)))
    if job is None:
        return False
    check_budget(job)
    job.paused = job.pause_requested = False
    job.pause_cause = job.limited = None
    job.reason, job.wait_reason = Reason.NONE, ""
    ledger.ask(session, job)
    record_event(session, job_id, job.attempt, "info", "unpaused", "goes on", {})
    return True


@dataclass(frozen=True, kw_only=True)
class JobChanges:
    """The properties of an unfinished job that can change; None leaves one as it is.

    Attributes:
        priority: The priority within the tenant.
        job_class: The class.
        gpu: A GPU type, or ``auto``.
        budget: The money that the job may cost.
        labels: The names that its worker must carry.
    """

    priority: int | None = None
    job_class: JobClass | None = None
    gpu: str | None = None
    budget: float | None = None
    labels: Sequence[str] | None = None

    def given(self) -> JsonObject:
        """Return the changes as fields of the job's spec."""
        named = {name: getattr(self, name) for name in ("priority", "job_class", "gpu", "budget", "labels")}
        return {name: value for name, value in named.items() if value is not None}


def change(session: Session, job_id: str, job_changes: JobChanges) -> tuple[JsonObject, JsonObject]:
    """Change how an unfinished job is queued, and estimate its use anew.

    Args:
        session: An open session.
        job_id: The job.
        job_changes: The new values, checked against the tenant's limits and the catalogue.

    Returns:
        The changed fields before and after.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: The job has ended, or runs and can't take such a change; a label has a wrong form.
    """
    job = _live(session, job_id, None)
    if job is None:
        raise SettingsError(f"job {job_id} has ended; nothing of it can change.", hint=f"See `celora status {job_id}`.")
    fixed = [name for name in ("gpu", "labels") if getattr(job_changes, name) is not None]
    if fixed and job.status is not Status.PENDING:
        raise SettingsError(
            f"{fixed[0]}: job {job_id} is {job.status} on {job.gpu_type or job.queue}, and can't change its slot now.",
            hint=f"Pause it first: celora pause {job_id}",
        )
    given = job_changes.given()
    if job_changes.labels is not None:
        job.labels = label_text(job_changes.labels)
        given["labels"] = job.labels.split(",") if job.labels else []
    before = {name: job.spec.get(name) for name in given}
    if job_changes.budget is not None:
        set_budget(job, job_changes.budget)
    job.priority = job.priority if job_changes.priority is None else job_changes.priority
    job.job_class = job_changes.job_class or job.job_class
    job.gpu = job_changes.gpu or job.gpu
    job.spec = {**job.spec, **given}
    ledger.ask(session, job)
    told = ", ".join(f"{name} {value}" for name, value in given.items())
    record_event(
        session, job_id, job.attempt, "info", "changed", f"changed: {told}", {"before": before, "after": given}
    )
    session.flush()
    return before, given


def retry(
    session: Session, job_id: str, new_id: str, *, tenant: str | None = None, changes: JsonObject | None = None
) -> Job:
    """Make a new job of one that failed or was cancelled; it continues from the old job's last good checkpoint.

    It keeps the prepared data and, where training was done already, the adapter. A change that would train something
    else (a learning rate, another dataset) starts afresh.

    Args:
        session: An open session.
        job_id: The job that ended.
        new_id: The id of the new job.
        tenant: The tenant that must own the job.
        changes: Fields of the spec that are to be different.

    Raises:
        NotFoundError: There is no such job (of this tenant).
        SettingsError: It has not ended, or completed; or a change is none that a spec can have.
    """
    wanted = select(Job).where(Job.id == job_id, *_of(tenant)).with_for_update()  # a sweep must not drop its data now
    old = session.scalars(wanted).one_or_none()
    if old is None:
        raise NotFoundError(f"there is no job {job_id}.", hint="`celora list` shows what there is.")
    if old.status not in (Status.FAILED, Status.CANCELLED):
        raise SettingsError(
            f"job {job_id} is {old.status}; only a failed or cancelled one can be tried again.",
            hint="A paused one goes on with `celora resume`; submit a completed one anew.",
        )
    spec = parse_spec({**known_fields(old.spec), **(changes or {})})
    job, new = _copy(session, old, new_id, spec)
    if not new:
        return job
    # KTO compares the rows of a micro batch, so there another micro batch is another training
    fixed = {"micro_batch", "accumulation"} if spec.method == "kto" else set[str]()
    if set(changes or {}) <= HARMLESS - fixed:
        _take_over(job, old)
    where = f"from its checkpoints, at {job.stage}" if job.resume_of else "from the start"
    data = {"retry_of": job_id, "begins_at": job.stage.value}
    record_event(session, new_id, 1, "info", "retries", f"tries {job_id} again, {where}", data)
    session.flush()
    return job


def _pause_now(session: Session, job: Job) -> None:
    data: JsonObject = {"stage": job.stage.value}
    if job.status is Status.QUEUED:  # its message is under way: the next attempt makes it stale
        data["next_attempt"] = job.attempt + 1
        close_attempt(session, job, "released")
        start_next_attempt(session, job, Reason.PAUSED, Cause("paused", "paused while it waited", data))
    else:
        recovered = job.recovered
        return_to_front(session, job, Reason.PAUSED, Cause("paused", "paused while it waited", data))
        job.recovered = recovered
    job.paused, job.wait_reason = True, pause_words(job.id, job.limited)
    ledger.release(session, job)
    session.flush()


def _copy(session: Session, old: Job, new_id: str, spec: JobSpec) -> tuple[Job, bool]:
    """Return the new job's row, and True if it was inserted now: the same retry requested twice is one job."""
    job, new = submit(session, job_id=new_id, spec=spec, tenant=old.tenant)
    if new:
        job.retry_of = old.id
    elif job.retry_of != old.id:
        raise SettingsError(f"there is a job {new_id} already.", hint="Choose another id for the new job.")
    return job, new


def _take_over(job: Job, old: Job) -> None:
    """Copy the finished stages and the checkpoints of the old job, so that the new job does not repeat them."""
    if old.prepared_uri is None:
        return
    for name in ("base", "prepared", "prepared_uri", "dataset_sha256", "memory_bytes", "adjusted"):
        setattr(job, name, getattr(old, name))
    job.stage, job.resume_of = Stage.TRAIN, old.id
    if old.stage in (Stage.EVALUATE, Stage.PUBLISH) and old.result:
        job.stage, job.result, job.resolved = Stage.EVALUATE, old.result, old.resolved
        job.step, job.steps = old.step, old.steps
        return
    job.resolved, job.least_memory_bytes = old.resolved, old.least_memory_bytes


def _live(session: Session, job_id: str, tenant: str | None, *guard: ColumnElement[bool]) -> Job | None:
    """Lock the row of a job that has not ended; None if the job ended."""
    job = lock_if(session, job_id, Job.status.in_(LIVE), *_of(tenant), *guard)
    if job is None and session.scalar(select(Job.id).where(Job.id == job_id, *_of(tenant))) is None:
        raise NotFoundError(f"there is no job {job_id}.", hint="`celora list` shows what there is.")
    return job


def _of(tenant: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if tenant is None else (Job.tenant == tenant,)
