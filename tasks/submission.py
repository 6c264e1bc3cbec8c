"""What a person or a program does to a job from outside: submit, cancel, evaluate again.

The row comes first and the message after its commit, so that what was accepted is never lost and a broker that is down
costs only time: the tick sends what was not sent.
"""

import fnmatch
import json
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from ..models import datasets, transitions
from ..models.database import Database, get_database
from ..models.spec import JOB_ID_PATTERN, JobSpec, parse_spec
from ..models.states import Status
from ..models.tables import Job
from ..settings.errors import BaseModelError, CeloraError, NotFoundError, SettingsError, UnavailableError
from ..settings.failpoints import hit
from ..settings.gpus import gpu_catalogue
from ..settings.redaction import redactor
from ..settings.settings import Settings, get_settings
from ..storage.paths import confine
from ..tuning.protocol import Dtype
from ..tuning.sources import is_remote, judge
from ..workers import announce, queues, sending
from ..workers.carry import poke
from ..workers.celery import app
from ..workers.limits import source_access

logger = logging.getLogger(__name__)

REQUEST_FIELDS = (
    "id", "args", "callbacks", "errbacks", "chain", "chord", "root_id", "parent_id", "group", "group_index",
    "correlation_id", "reply_to", "origin", "stamps", "stamped_headers",
)  # fmt: skip
"""What is kept of the caller's Celery request, to be answered at the job's end."""
MOST_LETTERS = 100_000
"""Size of a refused spec, as JSON, above which its values are not kept."""


def new_job_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits, so that ids sort by time."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0x3 << 62) | (2 << 62)
    return str(uuid.UUID(int=value))


def submit(fields: Mapping[str, Any], *, job_id: str | None = None) -> str:
    """Accept a job: write its row, then send ``finetune`` with the job's id.

    Args:
        fields: The job spec.
        job_id: An id of your own, which makes a repeated call harmless; a UUIDv7 unless given.

    Returns:
        The job's id, also when the broker cannot be reached: the job runs when it is back.

    Raises:
        SettingsError, DataError, BaseModelError: The spec is refused; nothing was written.
        NotFoundError: It names a dataset that is not there.
    """
    settings, database = get_settings(), get_database()
    spec = check_spec(dict(fields), settings)
    chosen = check_id(job_id or new_job_id())
    with database.transaction() as session:
        spec = write(session, chosen, spec, None)[0]
        hit("submit.written")
    hit("submit.committed")
    message = spec.model_dump(mode="json")

    def send() -> None:  # nobody waits for a result here: Celery would subscribe to it, or die trying
        app.send_task(
            "celora.finetune", kwargs=message, task_id=chosen, queue=queues.ENTRY, retry=False, ignore_result=True
        )

    if not sending.attempt(send, f"job {chosen}"):
        logger.warning("job %s is accepted; the broker does not answer, it runs when it does", chosen)
    hit("submit.sent")
    return chosen


def accept_message(fields: dict[str, Any], request: Any) -> None:
    """Accept what a ``finetune`` message asks for, and have it scheduled.

    Raises:
        CeloraError: As ``accept``.
    """
    hit("accept.received")
    accept(get_database(), get_settings(), fields, request)
    hit("accept.committed")
    poke()


def accept(database: Database, settings: Settings, fields: dict[str, Any], request: Any) -> bool:
    """Accept what a ``finetune`` message asks for; a second message with the same id does nothing.

    Args:
        database: The record.
        settings: Of the installation.
        fields: The job spec as it came.
        request: The message's Celery request; the caller's callbacks are kept with the job.

    Returns:
        Whether the row is new.

    Raises:
        CeloraError: The spec is refused. A ``failed`` row says so too, and the message's own failure tells the caller.
    """
    job_id = check_id(str(request.id))
    kept = {name: getattr(request, name, None) for name in REQUEST_FIELDS}
    with database.transaction() as session:
        known = session.get(Job, job_id)
        if known is not None:
            spec = JobSpec.model_validate(known.spec) if known.status is not Status.FAILED else None
            if spec is not None:
                transitions.submit(session, job_id=job_id, spec=spec, request=kept)
            return False
    try:
        spec = check_spec(fields, settings)
        with database.transaction() as session:
            _, created = write(session, job_id, spec, kept)
    except CeloraError as error:
        facts = {"code": error.code, "message": error.message, "hint": error.hint, "stage": "submit", "log_tail": ""}
        with database.transaction() as session:
            transitions.reject(session, job_id, _as_kept(fields), redactor().data(facts), None)
        raise
    return created


def _as_kept(fields: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a refused spec, which may be anything: its secrets are masked, of a huge one its names remain."""
    masked: dict[str, Any] = redactor().data(fields)
    if len(json.dumps(masked, default=str)) <= MOST_LETTERS:
        return masked
    return {str(name)[:200]: "left out: the spec was too large to keep" for name in list(masked)[:100]}


def write(session: Session, job_id: str, spec: JobSpec, request: dict[str, Any] | None) -> tuple[JobSpec, bool]:
    """Write the job's row, datasets' names replaced by their versions' places; the spec as written, and whether new."""
    placed, versions = datasets.resolved(session, spec)
    _, created = transitions.submit(session, job_id=job_id, spec=placed, request=request)
    if created:
        datasets.saw(session, job_id, versions)
    return placed, created


def check_spec(fields: dict[str, Any], settings: Settings) -> JobSpec:
    """Validate a spec against this installation: its fields, GPU types, base models and allowed folders.

    A seed is chosen where none was given, so that the record can tell it.

    Raises:
        SettingsError, DataError, BaseModelError: As their messages say.
    """
    spec = parse_spec(fields)
    types = gpu_catalogue(settings.gpus)
    if spec.gpu != "auto" and spec.gpu not in types:
        raise SettingsError(f"gpu: there is no GPU type {spec.gpu!r}.", hint=f"Use auto or one of {', '.join(types)}.")
    if settings.allowed_bases and not any(fnmatch.fnmatch(spec.base_model, name) for name in settings.allowed_bases):
        raise BaseModelError(
            f"base_model: {spec.base_model!r} is not allowed on this installation.",
            hint=f"Use one of {', '.join(settings.allowed_bases)}.",
        )
    held_out = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"": spec.eval_dataset or ""}
    required = spec.gate.must_pass if spec.gate else None
    for source in (spec.dataset, *filter(None, (*held_out.values(), required))):
        named = datasets.Reference.parse(source)
        if named or source.startswith(settings.artifacts.rstrip("/") + "/"):
            continue
        if is_remote(source):
            judge(source, source_access(settings))
        else:
            confine(source, settings.allowed_roots)
    seed = random.randrange(2**31) if spec.seed is None else spec.seed  # noqa: S311  (no secret)
    return spec.model_copy(update={"seed": seed})


def check_id(job_id: str) -> str:
    """The id itself.

    Raises:
        SettingsError: It cannot be a job's id.
    """
    if not re.fullmatch(JOB_ID_PATTERN, job_id):
        raise SettingsError(
            f"{job_id!r} cannot be a job id.", hint="Use 1 to 64 letters, digits, underscores and hyphens."
        )
    return job_id


def cancel(job_id: str) -> str:
    """Cancel a job: at once where nothing of it runs, else as soon as its trainer's process group is gone.

    Works without a broker and without a worker, since the record is the truth.

    Returns:
        ``cancelled``, ``cancelling`` (its worker was told), or ``final`` (it had ended before).

    Raises:
        NotFoundError: There is no such job.
    """
    database = get_database()
    with database.transaction() as session:
        job = _job(session, job_id)
        answer = transitions.request_cancel(session, job.id)
    if answer == "cancelled":
        announce.announce(database, job_id, within_s=sending.WITHIN_S)
    elif answer == "cancelling":  # unheard, its worker sees the cancel at its next heartbeat
        sending.attempt(lambda: app.control.revoke(job_id), f"the revoke of job {job_id}")
    poke()
    return answer


def evaluate_again(job_id: str, serving_dtype: Dtype | None = None) -> None:
    """Send a completed job's evaluation to its GPU queue once more; its status stays.

    Args:
        job_id: The job.
        serving_dtype: Measure on the unquantized base in this dtype, as it will be served, beside what was measured.

    Raises:
        NotFoundError: There is no such job.
        SettingsError: It has no finished adapter.
        UnavailableError: The broker cannot be reached.
    """
    with get_database().session() as session:
        job = _job(session, job_id)
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
        queue = queues.gpu_queue(job.gpu_type)

    kwargs = {"job_id": job_id, **({"serving_dtype": serving_dtype} if serving_dtype else {})}

    def send() -> None:
        app.send_task("celora.reevaluate", kwargs=kwargs, queue=queue, retry=False, ignore_result=True)

    if not sending.attempt(send, f"the evaluation of job {job_id}", within_s=sending.PATIENT_S):
        raise UnavailableError("the broker cannot be reached; nothing was sent.", hint="Try again when it is back.")


def _job(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}.", hint="See `celora list`.")
    return job
