"""What people ask of a job: cancel it, pause it, let it go on, try it again.

A waiting job obeys at once; of a running one the wish is written down, and its worker, which reads it at each renewal
of its lease, stops the trainer first. Works without a broker and without a worker, since the record is the truth.
"""

from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ..settings.errors import NotFoundError, SettingsError
from .attempts import again, close_attempt, end, to_front
from .journal import event, take
from .spec import JobSpec, parse_spec
from .states import Reason, Stage, Status
from .tables import Job

LIVE = (Status.PENDING, Status.QUEUED, Status.RUNNING)
HARMLESS = frozenset(
    {
        "time_limit_minutes", "stage_time_limit_minutes", "gpu", "priority", "metadata", "user", "suffix", "metrics",
        "eval_max_rows", "eval_max_new_tokens", "save_steps", "save_minutes", "micro_batch", "accumulation",
        "gradient_checkpointing", "report_to",
    }
)  # fmt: skip
"""Fields that a retry may change and still go on from the old job's checkpoint: they do not change what is trained."""


def request_cancel(session: Session, job_id: str, tenant: str | None = None) -> str:
    """End a job that a person no longer wants.

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
            event(session, job_id, job.attempt, "info", "cancel_requested", "a cancel was asked for")
        return "cancelling"
    job.cancel_requested = True
    end(session, job, Status.CANCELLED)
    return "cancelled"


def request_pause(session: Session, job_id: str, tenant: str | None = None) -> str:
    """Take a job off its GPU, or keep it from getting one, until ``resume``; its checkpoints stay.

    Returns:
        ``paused`` (it waited; at once), ``pausing`` (it runs; its worker will checkpoint and let go), ``cancelling``
        (a cancel was asked for before), ``final`` (it had ended).

    Raises:
        NotFoundError: There is no such job (of this tenant).
    """
    job = _live(session, job_id, tenant)
    if job is None:
        return "final"
    if job.cancel_requested:
        return "cancelling"
    if job.status is Status.RUNNING:
        if not job.pause_requested:
            job.pause_requested = True
            event(session, job_id, job.attempt, "info", "pause_requested", "a pause was asked for")
        return "pausing"
    if not job.paused:
        _pause_now(session, job)
    return "paused"


def resume(session: Session, job_id: str, tenant: str | None = None) -> bool:
    """Let a paused job go on, at the front of its queue; a pause that has not happened yet is taken back.

    Returns:
        Whether there was a pause to end.

    Raises:
        NotFoundError: There is no such job (of this tenant).
    """
    job = _live(session, job_id, tenant, (Job.paused.is_(True)) | (Job.pause_requested.is_(True)))
    if job is None:
        return False
    job.paused = job.pause_requested = False
    job.reason, job.wait_reason = Reason.NONE, ""
    event(session, job_id, job.attempt, "info", "unpaused", "goes on", {})
    return True


def retry(
    session: Session, job_id: str, new_id: str, *, tenant: str | None = None, changes: dict[str, Any] | None = None
) -> Job:
    """Make a new job of one that failed or was cancelled; it goes on from the old one's last good checkpoint.

    It keeps the prepared data and, where training was done already, the adapter. A change that would train something
    else (a learning rate, another dataset) starts afresh.

    Args:
        session: An open session.
        job_id: The job that ended.
        new_id: The new one's id.
        tenant: Whose job it must be.
        changes: Fields of the spec that are to be different.

    Raises:
        NotFoundError: There is no such job (of this tenant).
        SettingsError: It has not ended, or completed; or a change is none that a spec can have.
    """
    wanted = select(Job).where(Job.id == job_id, *_of(tenant)).with_for_update()  # a sweep must not let it go now
    old = session.scalars(wanted).one_or_none()
    if old is None:
        raise NotFoundError(f"there is no job {job_id}.", hint="`celora list` shows what there is.")
    if old.status not in (Status.FAILED, Status.CANCELLED):
        raise SettingsError(
            f"job {job_id} is {old.status}; only a failed or cancelled one can be tried again.",
            hint="A paused one goes on with `celora resume`; submit a completed one anew.",
        )
    spec = parse_spec({**old.spec, **(changes or {})})
    job, new = _copy(session, old, new_id, spec)
    if not new:
        return job
    if set(changes or {}) <= HARMLESS:
        _take_over(job, old)
    where = f"from its checkpoints, at {job.stage}" if job.resume_of else "from the start"
    data = {"retry_of": job_id, "begins_at": job.stage.value}
    event(session, new_id, 1, "info", "retries", f"tries {job_id} again, {where}", data)
    session.flush()
    return job


def _pause_now(session: Session, job: Job) -> None:
    data: dict[str, Any] = {"stage": job.stage.value}
    number = job.attempt
    if job.status is Status.QUEUED:  # its message is under way: the next attempt makes it stale
        data["next_attempt"] = number + 1
        close_attempt(session, job, "released")
        again(job, Reason.PAUSED)
    else:
        recovered = job.recovered
        to_front(job, Reason.PAUSED)
        job.recovered = recovered
    job.paused, job.wait_reason = True, ""
    event(session, job.id, number, "info", "paused", "paused while it waited", data)


def _copy(session: Session, old: Job, new_id: str, spec: JobSpec) -> tuple[Job, bool]:
    """The new row and whether it is new: the same retry asked for twice is one job."""
    from .transitions import submit  # noqa: PLC0415  (transitions lists these verbs among its own)

    job, new = submit(session, job_id=new_id, spec=spec, tenant=old.tenant)
    if new:
        job.retry_of = old.id
    elif job.retry_of != old.id:
        raise SettingsError(f"there is a job {new_id} already.", hint="Choose another id for the new job.")
    return job, new


def _take_over(job: Job, old: Job) -> None:
    """What the old job had reached and the new one need not do again."""
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
    """The job if it has not ended; its row is held."""
    job = take(session, job_id, Job.status.in_(LIVE), *_of(tenant), *guard)
    if job is None and session.scalar(select(Job.id).where(Job.id == job_id, *_of(tenant))) is None:
        raise NotFoundError(f"there is no job {job_id}.", hint="`celora list` shows what there is.")
    return job


def _of(tenant: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if tenant is None else (Job.tenant == tenant,)
