"""Changes jobs from outside: submit, cancel, pause, resume, retry, evaluate again.

The row comes first and the message after its commit. So an accepted job is never lost, and a broker that is down costs
only time: the tick sends the missing message.

Each function takes the scope of its caller: ``Scope.of(tenant)`` for whoever acts for one tenant, whose jobs alone the
function then finds, and ``Scope.everything`` for the operator's own programs and commands. Ids are whole.
"""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import SettingsError, UnavailableError
from ..models import datasets, queries
from ..models.adapters import lineage
from ..models.database import get_database
from ..models.jobs import requests
from ..models.scope.scope import Scope
from ..models.spec import JobSpec, known_fields, stored_spec
from ..models.states import Stage, Status
from ..models.tables import Event, Job
from ..models.tables.types import JsonObject
from ..models.tenants.audit import current_actor, record_audit
from ..models.workers import queues_that_are_read
from ..settings.failpoints import hit
from ..settings.settings import get_settings
from ..tuning.protocol import Dtype
from ..workers import messages, queues, results
from ..workers.celery import app
from ..workers.messages import request_tick
from .acceptance import write_job
from .job_checks import absolute_base, check_id, check_spec, owned_by, place_datasets, sources_of
from .tenants.admission import admit, check_month
from .tenants.prospects import mark_labels

__all__ = ["cancel", "evaluate_again", "pause", "resume", "retry", "submit"]

logger = logging.getLogger(__name__)


def new_job_id() -> str:
    """Makes a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits, so that ids sort by time."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0x3 << 62) | (2 << 62)
    return str(uuid.UUID(int=value))


def submit(fields: Mapping[str, Any], *, job_id: str | None = None, scope: Scope = Scope.everything) -> str:
    """Accepts a job: writes its row, then sends ``finetune`` with the job's id.

    Args:
        fields: The job spec.
        job_id: An id of the caller's, which makes a repeated call harmless; a UUIDv7 unless given.
        scope: The caller's. In the scope of one tenant the job is that tenant's, and a spec that names another is
            refused.

    Returns:
        The job's id, also when the broker cannot be reached: the job runs when it is back.

    Raises:
        SettingsError, DataError, BaseModelError: The spec is refused; nothing was written.
        NotFoundError: The spec names a dataset that does not exist.
    """
    settings, database = get_settings(), get_database()
    spec = check_spec(absolute_base(owned_by(scope, fields)), settings)
    chosen = check_id(job_id or new_job_id())
    with database.transaction(Scope.of(spec.tenant)) as session:
        spec = write_job(session, settings, chosen, spec, None)[0]
        hit("submit.written")
    hit("submit.committed")
    message = spec.model_dump(mode="json")

    if not messages.send_finetune(chosen, message):
        logger.warning("job %s is accepted; the broker does not answer, it runs when it does", chosen)
    hit("submit.sent")
    return chosen


def cancel(job_id: str, *, scope: Scope = Scope.everything) -> str:
    """Cancels a job: at once where no stage of it runs, else as soon as its trainer's process group is gone.

    The call works without a broker and without a worker, since the record is the truth.

    Returns:
        ``cancelled``, ``cancelling`` (its worker stops it), or ``final`` (it had ended before).

    Raises:
        NotFoundError: There is no such job.
    """
    database = get_database()
    with database.transaction(scope) as session:
        job = queries.get_job(session, job_id)
        before = _shown(job)
        answer = requests.request_cancel(session, job.id)
        _audit(session, "job.cancel", job, before, {"answer": answer})
    if answer == "cancelled":
        results.announce(database, job_id, within_s=messages.WITHIN_S)
    elif answer == "cancelling":  # without the message, the worker sees the cancel at its next heartbeat
        messages.attempt(lambda: app.control.revoke(job_id), f"the revoke of job {job_id}")
    request_tick()
    return answer


def pause(job_id: str, *, scope: Scope = Scope.everything) -> str:
    """Keeps a job off the GPU until ``resume``; a running one checkpoints first.

    Returns:
        ``paused``, ``pausing`` (its worker stops it at the next step), ``cancelling``, or ``final`` (it had ended).

    Raises:
        NotFoundError: There is no such job.
    """
    with get_database().transaction(scope) as session:
        job = queries.get_job(session, job_id)
        before = _shown(job)
        answer = requests.request_pause(session, job.id)
        _audit(session, "job.pause", job, before, {"answer": answer})
    if answer == "paused":
        request_tick()  # it may have held a slot
    return answer


def resume(job_id: str, *, budget: float | None = None, scope: Scope = Scope.everything) -> bool:
    """Resumes a paused job, at the front of its queue.

    Args:
        job_id: The job.
        budget: A new budget for a job that has used its own.
        scope: The caller's.

    Returns:
        True if the job was paused.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: The job has used its budget and gets no larger one.
    """
    with get_database().transaction(scope) as session:
        job = queries.get_job(session, job_id)
        before = _shown(job) | {"budget": job.spec.get("budget")}
        ended = requests.resume(session, job.id, budget=budget)
        _audit(session, "job.resume", job, before, {"resumed": ended, "budget": job.spec.get("budget")})
    if ended:
        request_tick()
    return ended


def retry(
    job_id: str,
    changes: Mapping[str, Any] | None = None,
    *,
    new_id: str | None = None,
    scope: Scope = Scope.everything,
) -> str:
    """Creates a new job from a failed or cancelled one; it starts from the old job's last good checkpoint.

    Args:
        job_id: The job that ended.
        changes: Fields of the spec with their new values; a field that changes what is trained makes the new job start
            from the beginning.
        new_id: The new job's id; a UUIDv7 unless given.
        scope: The caller's.

    Returns:
        The new job's id.

    Raises:
        NotFoundError: There is no such job, or the spec names a dataset that does not exist.
        SettingsError, DataError, BaseModelError: The old job did not fail, or the new spec is refused.
    """
    chosen = check_id(new_id or new_job_id())
    with get_database().transaction(scope) as session:
        old = queries.get_job(session, job_id)
        job = requests.retry(session, old.id, chosen, changes=_changes(session, old, changes or {}))
        datasets.record_use(session, chosen, datasets.resolve(session, stored_spec(job.spec))[1])
        admit(session, get_settings(), chosen)
        mark_labels(session, chosen)
        _audit(session, "job.retry", job, {"retry_of": old.id}, dict(changes or {}))
        message = dict(job.spec)
    messages.send_finetune(chosen, message)
    return chosen


def evaluate_again(job_id: str, serving_dtype: Dtype | None = None, *, scope: Scope = Scope.everything) -> None:
    """Sends a completed job's evaluation to the queue of its GPU type or of its own worker once more; its status stays.

    Args:
        job_id: The job.
        serving_dtype: The dtype of the unquantized base, as it will be served, on which the adapter is measured too.
        scope: The caller's.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: It has no finished adapter.
        TenantLimitError: Nothing is left of the tenant's month, to which the evaluation is charged.
        UnavailableError: The broker cannot be reached.
    """
    with get_database().transaction(scope) as session:
        job = queries.get_job(session, job_id)
        if job.status is not Status.COMPLETED or not job.gpu_type:
            raise SettingsError(
                f"job {job_id} is {job.status}; only a completed job can be evaluated again.",
                hint=f"See `celora status {job_id}`.",
            )
        if job.prepared_uri is None:
            raise SettingsError(
                f"the data of job {job_id} was swept, {get_settings().keep_checkpoint_days:g} days after its end.",
                hint="Submit it anew; an operator may raise CELORA_KEEP_CHECKPOINT_DAYS.",
            )
        check_month(session, job.tenant)
        queue = _queue_of_evaluation(job.id, job.gpu_type)
        _audit(session, "job.evaluate", job, {}, {"serving_dtype": serving_dtype})

    kwargs = {"job_id": job_id, **({"serving_dtype": serving_dtype} if serving_dtype else {})}

    def send() -> None:
        app.send_task("celora.reevaluate", kwargs=kwargs, queue=queue, retry=False, ignore_result=True)

    if not messages.attempt(send, f"the evaluation of job {job_id}", within_s=messages.PATIENT_S):
        raise UnavailableError("the broker cannot be reached; nothing was sent.", hint="Try again when it is back.")


def _queue_of_evaluation(job_id: str, gpu_type: str) -> str:
    """Return the own queue of the worker that trained the job, if it has one and takes work; else that of the type.

    A worker that is reserved or carries labels does not read the common queue of its type, which perhaps nobody reads.
    Workers are no tenant's, so the session is one of all tenants.
    """
    with get_database().session(Scope.everything) as session:
        started = select(Event.data).where(Event.job_id == job_id, Event.kind == "stage_started")
        trained_on = [
            str(data.get("worker", ""))
            for data in session.scalars(started.order_by(Event.id.desc()))
            if data and data.get("stage") in (Stage.TRAIN, Stage.EVALUATE)
        ]
        read = queues_that_are_read(session, get_settings().foreign_memory_bytes)
    own = (queues.own_queue(gpu_type, worker) for worker in trained_on)
    return next((name for name in own if name in read), queues.gpu_queue(gpu_type))


def _changes(session: Session, old: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields whose values change, checked as at a submit; a dataset's name as the place of its version."""
    if not given:
        return {}
    given = absolute_base(given)
    if given.get("tenant", old.tenant) != old.tenant:
        raise SettingsError(f"job {old.id} is tenant {old.tenant}'s; a retry is, too.", hint="Submit it anew.")
    settings, known = get_settings(), tuple(sources_of(stored_spec(old.spec)))
    if given.keys() & {"continue_from", "reference"}:
        spec, names = _with_parent(session, old, given), {*given, *lineage.FROM_PARENT}
    else:
        spec, names = check_spec({**known_fields(old.spec), **given, "tenant": old.tenant}, settings), {*given}
    placed = place_datasets(session, spec, settings, known=known)[0].model_dump(mode="json")
    before = stored_spec(old.spec).model_dump(mode="json")
    return {name: placed[name] for name in sorted(names) if placed[name] != before[name]}


def _with_parent(session: Session, old: Job, given: Mapping[str, Any]) -> JobSpec:
    """Returns the new spec of a retry whose parent or reference changes: base and shape come from the new parent."""
    kept = known_fields(old.spec)
    if old.spec.get("continue_from") and given.get("continue_from"):
        kept = {name: value for name, value in kept.items() if name not in lineage.FROM_PARENT}
    return lineage.resolve(session, check_spec({**kept, **given, "tenant": old.tenant}, get_settings()))


def _audit(session: Session, action: str, job: Job, before: JsonObject, after: JsonObject) -> None:
    record_audit(session, current_actor(), action, job.id, before, after, tenant=job.tenant)


def _shown(job: Job) -> JsonObject:
    return {"status": job.status.value, "paused": job.paused}
