"""Makes a job of a request of OpenAI's form, once however often the request is repeated.

The row, the request behind it and the key of repetition are one transaction, under a lock of the body's hash. So a
repetition that overlaps with the first request finds the job of the first.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from ...models.database import now
from ...models.openai import job_requests
from ...models.tables import JobRequest
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...tuning.files.strict_json import JsonObject
from ...workers import messages
from ..acceptance import write_job
from ..job_checks import check_spec
from ..jobs import new_job_id
from ..locks import with_lock
from .job_fields import Refuse, read_request

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who sends a request, and whether it may be a repetition.

    Attributes:
        tenant: The tenant.
        user: The name that is recorded with the job.
        key: The request's Idempotency-Key, if it has one.
        retried: True if the client marks the request as a repetition.
    """

    tenant: str
    user: str
    key: str | None = None
    retried: bool = False


@dataclass(frozen=True)
class Request:
    """A request with the hash of its body and the settings under which it is judged."""

    origin: Origin
    digest: str
    settings: Settings


def create(fields: JsonObject, origin: Origin, settings: Settings, refuse: Refuse) -> str:
    """Accept a job: write its rows, then send its message.

    Args:
        fields: The body of the request.
        origin: Who sends it.
        settings: The installation's.
        refuse: Turns pydantic's error about the body into a refusal.

    Returns:
        The job's id, also when the broker cannot be reached.

    Raises:
        RequestError: A value is refused, a file or a model is not there, or the key belongs to another request.
        CeloraError: The installation refuses the job, or its tenant has reached a limit.
    """
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    sending: list[Mapping[str, object]] = []

    def write(session: Session) -> str:
        known = _known(session, origin, digest)
        if known is not None:
            return known
        job_id, message = _write(session, fields, Request(origin, digest, settings), refuse)
        sending.append(message)
        return job_id

    job_id = with_lock(f"create:{origin.tenant}:{origin.key or digest}", write)
    hit("create.committed")
    for message in sending:
        if not messages.send_finetune(job_id, message):
            logger.warning("job %s is accepted; the broker does not answer, it runs when it does", job_id)
    return job_id


def _known(session: Session, origin: Origin, digest: str) -> str | None:
    if origin.key is not None:
        return job_requests.of_key(session, origin.tenant, origin.key, digest)
    return job_requests.repeated(session, origin.tenant, digest) if origin.retried else None


def _write(session: Session, fields: JsonObject, request: Request, refuse: Refuse) -> tuple[str, Mapping[str, object]]:
    origin, settings, digest = request.origin, request.settings, request.digest
    asked = read_request(session, fields, origin.tenant, settings, refuse)
    form = asked.form
    job_id = f"ftjob-{new_job_id()}"
    wanted = {**asked.fields, "user": origin.user}
    spec = write_job(session, settings, job_id, check_spec(wanted, settings), None)[0]
    session.add(
        JobRequest(
            job_id=job_id,
            tenant=origin.tenant,
            model=form.model,
            named=asked.chosen.named,
            training_file=asked.training.id,
            validation_file=asked.validation.id if asked.validation else None,
            method=form.method_name,
            hyperparameters=form.asked.model_dump(),
            body_sha256=digest,
            created_at=now(session),
        )
    )
    session.flush()
    if origin.key is not None:
        job_requests.remember_key(session, origin.tenant, origin.key, digest, job_id)
    hit("create.written")
    return job_id, spec.model_dump(mode="json")
