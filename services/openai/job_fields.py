"""Makes the fields of a job of a request in OpenAI's form: its model, its files, and its settings.

Both a new job and a check of a job's data read their request here, so both refuse the same requests.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError
from sqlalchemy.orm import Session

from ...errors import RequestError
from ...models.openai import files
from ...models.tables import File
from ...settings.secrets import secrets_of_job
from ...settings.settings import Settings
from ...tuning.files.strict_json import JsonObject, JsonValue
from .files import PURPOSE
from .job_form import JobForm, check_fields, refuse_unsupported, spec_fields
from .model_names import Chosen, choose
from .required_rows import place_required

WANDB = "WANDB_API_KEY"
EPOCHS = ((50_000_000, 1), (10_000_000, 2), (0, 3))
"""Epochs where they are ``auto``: by the bytes of the training file, the largest first."""

Refuse = Callable[[ValidationError], RequestError]
"""Turns an error about the body into a refusal that names the field."""


@dataclass(frozen=True, kw_only=True)
class AskedJob:
    """A job as a request asks for it.

    Attributes:
        form: The request.
        chosen: Its model.
        training: The file to train on.
        validation: The held-out file, if it has one.
        fields: The fields of the job's spec, without its user.
    """

    form: JobForm
    chosen: Chosen
    training: File
    validation: File | None
    fields: JsonObject


def read_request(session: Session, fields: JsonObject, tenant: str, settings: Settings, refuse: Refuse) -> AskedJob:
    """Read a request, and find its model and its files among those of the tenant.

    Args:
        session: An open session.
        fields: The body of the request.
        tenant: The tenant.
        settings: Settings of the installation.
        refuse: Turns pydantic's error about the body into a refusal.

    Raises:
        RequestError: A value is refused, or a file or a model is not there.
    """
    chosen = _chosen(session, fields, tenant, settings)
    try:
        form = JobForm.model_validate(fields)
    except ValidationError as error:
        raise refuse(error) from None
    chosen = chosen or choose(session, tenant, form.model, settings)
    refuse_unsupported(form, may_report=_may_report(tenant, settings))
    training = _file(session, tenant, form.training_file, "training_file")
    validation = _file(session, tenant, form.validation_file, "validation_file") if form.validation_file else None
    wanted: JsonObject = {"epochs": _epochs(training.size_bytes), "epoch_checkpoints": True, **spec_fields(form)}
    wanted |= {"continue_from": chosen.continue_from} if chosen.continue_from else {}
    wanted |= {"base_model": chosen.base, "dataset": training.uri, "tenant": tenant}
    wanted |= {"eval_dataset": validation.uri} if validation else {}
    if wanted.get("gate"):
        gate = place_required(session, tenant, wanted["gate"], param="celora.gate")
        wanted["gate"] = cast("JsonValue", gate)
    check_fields(form, wanted)
    return AskedJob(form=form, chosen=chosen, training=training, validation=validation, fields=wanted)


def _may_report(tenant: str, settings: Settings) -> bool:
    """Return whether a tenant's jobs get a key of wandb: its own, or the installation's where that is shared."""
    return bool(secrets_of_job(settings.home, tenant, [WANDB], os.environ, shared=settings.shared_secrets))


def _chosen(session: Session, fields: JsonObject, tenant: str, settings: Settings) -> Chosen | None:
    """Judge the model before everything else: a client that asks for one that is not there learns that alone."""
    asked = fields.get("model")
    return choose(session, tenant, asked, settings) if isinstance(asked, str) and asked else None


def _file(session: Session, tenant: str, file_id: str, param: str) -> File:
    try:
        file = files.find(session, tenant, file_id)
    except RequestError as error:
        raise RequestError(error.message, reason=f"invalid_{param}", param=param) from None
    if file.purpose != PURPOSE:
        raise RequestError(
            f"{param}: the purpose of {file_id} is {file.purpose}, and must be {PURPOSE}.",
            reason=f"invalid_{param}",
            param=param,
        )
    return file


def _epochs(size_bytes: int) -> int:
    return next(epochs for least, epochs in EPOCHS if size_bytes >= least)
