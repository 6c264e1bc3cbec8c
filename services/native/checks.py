"""Checks the data of a job that a tenant may submit: accepts a check, has a prep worker make it, keeps the result.

The request is that of a job, and the check is that of ``celora check``. The result is in the tenant's words and is kept
for an hour. A check is never charged; the number of a tenant's checks at once is limited.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, cast

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ...errors import CeloraError, RequestError, UnavailableError
from ...models import datasets
from ...models.adapters import lineage
from ...models.database import Database, get_database, now
from ...models.openai import data_checks
from ...models.scope.scope import Scope
from ...models.spec import JobSpec, stored_spec
from ...models.tables import DataCheck, Tenant
from ...settings.secrets import secrets_of_job
from ...settings.settings import Settings
from ...storage.json_values import JsonObject
from ...workers import messages, queues
from ...workers.celery import app
from ...workers.trainer.supervisor import Cancelled
from ..job_checks import check_spec, place_datasets
from ..openai.files import RESEND_S
from ..openai.job_fields import AskedJob, Refuse, read_request
from ..openai.job_form import named_refusals, place_of
from ..tenants import words
from ..tenants.job_views import without_places
from . import data_check

logger = logging.getLogger(__name__)

TASK = "celora.check_data"
MOST_OPEN = 2
"""Checks of one tenant that wait or run at once: each takes a place of a prep worker, which jobs need too."""
MOST_WALL_S = 600
"""Seconds that a check may take, fetching the base apart, where the limit of ``prepare`` is not lower."""
CLAIM_S = 60.0
RENEW_S = 5.0
"""Seconds between renewals, and so until a deleted check ends."""
WAIT_S = 1800.0
"""Seconds after which a check that no worker takes has failed."""

Status = Literal["waiting", "running", "ended"]
LOST: JsonObject = {
    "code": UnavailableError.code,
    "message": "the check could not be made: no worker of the service has taken it, or each was lost.",
    "hint": "Try again later.",
}
"""The failure of a check without a worker."""


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """A check as its tenant sees it.

    Attributes:
        id: Its id.
        status: ``waiting`` for a worker, ``running``, or ``ended``.
        created_at: When it was asked for, seconds of the epoch.
        expires_at: When it is forgotten, seconds of the epoch.
        receipt: The receipt of an ended check.
        error: Code, message and hint of the fault of the data.
        failure: The same of the fault for which there is no result.
    """

    id: str
    status: Status
    created_at: float
    expires_at: float
    receipt: JsonObject | None
    error: JsonObject | None
    failure: JsonObject | None

    @classmethod
    def of(cls, row: DataCheck, at: datetime) -> "CheckView":
        """Read a check's row at a time."""
        runs = row.result is None and row.claimed_until is not None and row.claimed_until > at
        result: JsonObject = row.result or {}
        alive_at = row.expires_at - timedelta(seconds=data_checks.LIFE_S)
        if row.result is None and not runs and alive_at < at - timedelta(seconds=WAIT_S):
            result = {"failure": LOST}
        return cls(
            id=row.id,
            status="ended" if result else "running" if runs else "waiting",
            created_at=row.created_at.timestamp(),
            expires_at=row.expires_at.timestamp(),
            receipt=result.get("receipt"),
            error=result.get("error"),
            failure=result.get("failure"),
        )


def create(fields: JsonObject, tenant: str, settings: Settings, refuse: Refuse) -> CheckView:
    """Accepts a check, and asks a prep worker for it.

    Args:
        fields: The body of the request, which is that of a job.
        tenant: The tenant.
        settings: Settings of the installation.
        refuse: Turns pydantic's error about the body into a refusal.

    Raises:
        RequestError: A value is refused, a file or a model is not there, or too many checks are open (429).
        CeloraError: The installation would refuse the job.
    """
    check_id = f"check-{secrets.token_hex(12)}"
    with get_database().transaction(Scope.of(tenant)) as session:
        mine = select(Tenant.name).where(Tenant.name == tenant)
        session.scalars(mine.with_for_update(key_share=True)).all()  # two that come at once are counted in turn
        if data_checks.count_open(session, tenant) >= MOST_OPEN:
            raise RequestError(
                f"{MOST_OPEN} checks wait or run already; try again.",
                reason="rate_limit_exceeded",
                status=429,
                headers={"retry-after": "10"},
            )
        asked = read_request(session, fields, tenant, settings, refuse)
        with named_refusals(lambda name: place_of(asked.form, name)):
            spec, file_names = _placed(session, asked, settings)
        row = data_checks.add_check(
            session, check_id=check_id, tenant=tenant, spec=spec.model_dump(mode="json"), file_names=file_names
        )
        view = CheckView.of(row, now(session))
    request_check(check_id)
    return view


def _placed(session: Session, asked: AskedJob, settings: Settings) -> tuple[JobSpec, dict[str, str]]:
    """Return the spec that the installation accepts, and the names of its files by set."""
    spec = check_spec(asked.fields, settings, to_train=False)
    if spec.continue_from or spec.reference:
        spec = lineage.resolve(session, spec)
    placed, versions = place_datasets(session, spec, settings)
    names = {role: datasets.file_name(version) for role, version in versions.items()}
    names |= {datasets.TRAIN: asked.training.filename}
    names |= {datasets.HELD_OUT: asked.validation.filename} if asked.validation else {}
    return placed, names


def find(tenant: str, check_id: str) -> CheckView:
    """Finds a check of a tenant.

    Raises:
        RequestError: There is none, or it has expired (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        return CheckView.of(data_checks.find_check(session, tenant, check_id), now(session))


def delete(tenant: str, check_id: str) -> None:
    """Deletes a check with its result; one that runs ends without a result.

    Raises:
        RequestError: There is none, or it has expired (404).
    """
    with get_database().transaction(Scope.of(tenant)) as session:
        session.delete(data_checks.find_check(session, tenant, check_id))


def run(database: Database, settings: Settings, check_id: str) -> None:
    """Makes a check that nobody makes, and records its result."""
    with database.transaction(Scope.everything) as session:
        row = data_checks.claim_check(session, check_id, CLAIM_S)
        if row is None:
            return
        spec, names = stored_spec(row.spec), {name: str(file) for name, file in row.file_names.items()}
        worn_out = row.tries > data_checks.MOST_TRIES
    result: JsonObject = {"failure": LOST}
    if not worn_out:
        try:
            with _renewed(database, check_id) as gone:
                result = _result(spec, names, settings, wanted=lambda: not gone.is_set())
        except Cancelled:
            logger.info("the check %s was deleted; its trainer is ended", check_id)
            return
    with database.transaction(Scope.everything) as session:
        data_checks.end_check(session, check_id, result)


def _result(spec: JobSpec, names: dict[str, str], settings: Settings, *, wanted: Callable[[], bool]) -> JsonObject:
    """Check the data of a spec, and word the result for its tenant."""
    tokens = secrets_of_job(settings.home, spec.tenant, ["HF_TOKEN"], os.environ, shared=settings.shared_secrets)
    try:
        found = data_check.check_data(
            spec,
            settings,
            file_names=names,
            environment=tokens,
            own_files=False,
            wanted=wanted,
            most_wall_s=MOST_WALL_S,
        )
    except CeloraError as error:
        logger.warning("a check of tenant %s could not be made: %s", spec.tenant, error)
        return {"failure": _fault(words.failure_of(error))}
    error = found.error and _fault(words.failure(found.error["code"], found.error["message"], found.error["hint"]))
    return {"receipt": cast("JsonObject", without_places(found.receipt, ())), "error": error, "failure": None}


def _fault(said: words.Failure) -> JsonObject:
    return {"code": said.code, "message": said.message, "hint": said.hint}


@contextmanager
def _renewed(database: Database, check_id: str) -> Generator[threading.Event]:
    """Extend the claim of a check during the block, on a thread of its own; the event is set when the check is gone."""
    ended, gone = threading.Event(), threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            try:
                with database.transaction(Scope.everything) as session:
                    if not data_checks.renew_claim(session, check_id, CLAIM_S):
                        gone.set()
            except (SQLAlchemyError, UnavailableError) as error:  # the record is away; the next turn tries again
                logger.warning("the claim of %s could not be renewed: %s", check_id, error)

    thread = threading.Thread(target=renew, daemon=True, name="claim")
    thread.start()
    try:
        yield gone
    finally:
        ended.set()
        thread.join()


def request_check(check_id: str) -> bool:
    """Sends the message that asks a worker for a check; False if it may be lost."""

    def send() -> None:
        app.send_task(
            TASK,
            kwargs={"check_id": check_id},
            queue=queues.PREP,
            priority=queues.AFTER_STAGES,
            expires=RESEND_S,
            retry=False,
            ignore_result=True,
        )

    return messages.attempt(send, f"the check {check_id}")


def request_missing(database: Database) -> None:
    """Asks again for the checks whose message was lost, or whose worker died."""
    with database.transaction(Scope.everything) as session:
        waiting = data_checks.list_unsent(session, RESEND_S)
    for check_id in waiting:
        if not request_check(check_id):
            return
