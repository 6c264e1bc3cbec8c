"""Makes a job of a request of OpenAI's form, once however often the request is repeated.

The row, the request behind it and the key of repetition are one transaction, under a lock of the request's hash. So a
repetition that overlaps with the first request finds the job of the first. A repetition without a key of its own comes
with the same API key as the first request: two people who ask for the same get two jobs.
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
from ...tuning.files.strict_json import JsonObject, JsonValue
from ...workers import messages
from ..acceptance import write_job
from ..job_checks import check_spec
from ..jobs import new_job_id
from ..locks import with_lock
from .job_fields import Refuse, read_request
from .job_form import named_refusals, place_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who sends a request, and whether it may be a repetition.

    Attributes:
        tenant: The tenant.
        user: The name that is recorded with the job.
        key_id: The API key that it comes with; empty without one.
        key: The request's Idempotency-Key, if it has one.
        retried: True if the client marks the request as a repetition.
    """

    tenant: str
    user: str
    key_id: str = ""
    key: str | None = None
    retried: bool = False


@dataclass(frozen=True)
class Request:
    """A request and the settings under which it is judged.

    Attributes:
        origin: Who sends it.
        body_sha256: The hash of its body.
        sent_sha256: The hash of its body and its API key, by which a repetition is known.
        settings: The installation's.
    """

    origin: Origin
    body_sha256: str
    sent_sha256: str
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
    request = Request(origin, _sha256(fields), _sha256([origin.key_id, fields]), settings)
    sending: list[Mapping[str, object]] = []

    def write(session: Session) -> str:
        known = _known(session, request)
        if known is not None:
            return known
        job_id, message = _write(session, fields, request, refuse)
        sending.append(message)
        return job_id

    job_id = with_lock(f"create:{origin.tenant}:{origin.key or request.sent_sha256}", write)
    hit("create.committed")
    for message in sending:
        if not messages.send_finetune(job_id, message):
            logger.warning("job %s is accepted; the broker does not answer, it runs when it does", job_id)
    return job_id


def _sha256(value: JsonValue) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _known(session: Session, request: Request) -> str | None:
    origin = request.origin
    if origin.key is not None:
        return job_requests.of_key(session, origin.tenant, origin.key, request.body_sha256)
    return job_requests.repeated(session, origin.tenant, request.sent_sha256) if origin.retried else None


def _write(session: Session, fields: JsonObject, request: Request, refuse: Refuse) -> tuple[str, Mapping[str, object]]:
    origin, settings = request.origin, request.settings
    asked = read_request(session, fields, origin.tenant, settings, refuse)
    form = asked.form
    job_id = f"ftjob-{new_job_id()}"
    wanted = {**asked.fields, "user": origin.user}
    with named_refusals(lambda name: place_of(form, name)):
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
            body_sha256=request.sent_sha256,
            created_at=now(session),
        )
    )
    session.flush()
    if origin.key is not None:
        job_requests.remember_key(session, origin.tenant, origin.key, request.body_sha256, job_id)
    hit("create.written")
    return job_id, spec.model_dump(mode="json")
