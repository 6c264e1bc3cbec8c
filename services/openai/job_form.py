"""Reads the request that makes a job: OpenAI's form, and the object ``celora`` for every further field of a job.

Unknown fields are refused: a setting that is misspelled would otherwise cost a training. Null counts as unset, because
clients send it for every argument that their caller left out.
"""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import BaseModelError, DataError, NotFoundError, RequestError, SettingsError
from ...models.spec import LONGEST_LABEL, SPEC_IS_WRONG, JobSpec
from ...tuning.files.strict_json import JsonObject
from ..tenants.words import failure_of

Auto = Literal["auto"]
RESERVED = frozenset({"dataset", "eval_dataset", "base_model", "revision", "tenant", "user", "continue_from"})
"""Fields of a job that the object ``celora`` may not set: they are the request's own, or the key's."""
OWN_PLACE = {
    "suffix": "suffix",
    "seed": "seed",
    "metadata": "metadata",
    "epochs": "n_epochs",
    "effective_batch": "batch_size",
    "learning_rate_multiplier": "learning_rate_multiplier",
    "method": "method",
    "beta": "beta",
    "report_to": "integrations",
    "wandb": "integrations",
}
"""Fields of a job that the request has under a name of its own."""
METHODS = ("supervised", "dpo", "reinforcement")
LabelName = Annotated[str, Field(max_length=LONGEST_LABEL["name"])]
LabelValue = Annotated[str, Field(max_length=LONGEST_LABEL["value"])]


class Part(BaseModel):
    """A part of the request; nothing is converted, and an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Hyperparameters(Part):
    """The settings of a training that OpenAI's form has; ``batch_size`` is the effective batch."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] | None = None
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] | None = None
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] | None = None


class Supervised(Part):
    """The method ``supervised``."""

    hyperparameters: Hyperparameters | None = None


class DpoHyperparameters(Hyperparameters):
    """The settings of training from preferences."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] | None = None


class Dpo(Part):
    """The method ``dpo``."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Part):
    """The method of a training; ``reinforcement`` is not offered."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class Wandb(Part):
    """The settings of an integration with Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128)]
    name: Annotated[str, Field(max_length=128)] | None = None
    entity: Annotated[str, Field(max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50)] | None = None


class Integration(Part):
    """A tracker that gets a training's measurements."""

    type: Literal["wandb"]
    wandb: Wandb


class JobForm(Part):
    """The request that makes a job."""

    model: Annotated[str, Field(min_length=1, max_length=500)]
    training_file: Annotated[str, Field(min_length=1, max_length=128)]
    validation_file: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[str, Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Annotated[dict[LabelName, LabelValue], Field(max_length=16)] | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    celora: dict[str, Any] | None = Field(None, description="any further field of a job; see docs/settings.md")

    @property
    def method_name(self) -> str:
        """The method that was asked for."""
        return self.method.type if self.method else "supervised"

    @property
    def own_settings(self) -> Hyperparameters | None:
        """The settings inside the method."""
        if self.method is None:
            return None
        part = self.method.dpo if self.method.type == "dpo" else self.method.supervised
        return part.hyperparameters if part else None

    @property
    def asked(self) -> Hyperparameters:
        """The settings that were asked for, from either of their two places.

        Raises:
            RequestError: Both places have settings, and those at the top are not among those of the method.
        """
        inner = self.own_settings
        outer = self.hyperparameters
        given = [one for one in (inner, outer) if one is not None and one.model_dump(exclude_none=True)]
        if len(given) > 1 and not _chosen(outer).items() <= _chosen(inner).items():
            raise RequestError(
                f"hyperparameters and method.{self.method_name}.hyperparameters differ; give one of them.",
                param="hyperparameters",
            )
        return given[0] if given else Hyperparameters()


def _chosen(settings: Hyperparameters | None) -> dict[str, Any]:
    """Return the settings that are chosen, neither null nor left ``auto``."""
    given = settings.model_dump() if settings else {}
    return {name: value for name, value in given.items() if value not in (None, "auto")}


def refuse_unsupported(form: JobForm, *, may_report: bool = False) -> None:
    """Refuse a method that is not offered, settings of another method, and an integration that has no secret.

    Args:
        form: The request.
        may_report: True if the tenant has a secret for wandb.

    Raises:
        RequestError: The method or the integration is not there.
    """
    if form.method_name == "reinforcement":
        raise RequestError(
            "method.type: reinforcement is not offered; use supervised or dpo.",
            reason="unsupported_method",
            param="method.type",
        )
    for name in METHODS:
        if form.method and name != form.method.type and getattr(form.method, name) is not None:
            place = f"method.{name}"
            raise RequestError(f"{place}: the type of the method is {form.method.type}; leave it away.", param=place)
    if form.integrations and len(form.integrations) > 1:
        raise RequestError("integrations: a job reports to one project.", param="integrations")
    if form.integrations and not may_report:
        raise RequestError(
            "integrations: this tenant has no secret for wandb. The operator sets it: "
            "`celora secret set WANDB_API_KEY --tenant TENANT`.",
            reason="missing_secret",
            param="integrations",
        )


def spec_fields(form: JobForm) -> JsonObject:
    """Return the fields of a job that the request sets, without its files, base and tenant.

    Raises:
        RequestError: The object ``celora`` sets a field that is not its own, or one that the request has set.
    """
    asked, further = form.asked, dict(form.celora or {})
    fields: dict[str, Any] = {"eval_fraction": 0.0, "suffix": form.suffix, "seed": form.seed, "metadata": form.metadata}
    chosen = _chosen(asked)
    fields |= {"epochs": chosen.get("n_epochs"), "effective_batch": chosen.get("batch_size")}
    fields |= {"learning_rate_multiplier": chosen.get("learning_rate_multiplier")}
    if form.method_name == "dpo":
        fields |= {"method": "dpo", "beta": chosen.get("beta")}
    fields |= _tracked(form)
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in further.items():
        _refuse_further(name, value, fields)
    return {**fields, **{name: value for name, value in further.items() if value is not None}}


def _tracked(form: JobForm) -> dict[str, Any]:
    """Return the fields of a job that reports to wandb."""
    if not form.integrations:
        return {}
    asked = form.integrations[0].wandb
    named = {"project": asked.project, "entity": asked.entity, "name": asked.name, "tags": ",".join(asked.tags or [])}
    return {"report_to": ["wandb"], "wandb": {name: value for name, value in named.items() if value}}


def _refuse_further(name: str, value: object, fields: dict[str, Any]) -> None:
    place = f"celora.{name[:100]}"
    if name in RESERVED or name not in JobSpec.model_fields:
        raise RequestError(f"{place} is no parameter of this request.", reason="unknown_parameter", param=place)
    if name in OWN_PLACE and name in fields:
        raise RequestError(f"{place}: the request sets {OWN_PLACE[name]} already.", param=place)
    if name == "report_to" and isinstance(value, list) and "wandb" in value:
        raise RequestError(f"{place}: use integrations for wandb.", param=place)


def check_fields(form: JobForm, fields: JsonObject) -> None:
    """Validate the fields of a job, and name the one that is wrong as the request has it.

    Raises:
        RequestError: A field is wrong.
    """
    try:
        JobSpec.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        message = str(fault["msg"]).removeprefix("Value error, ")
        name, *rest = [str(part) for part in fault["loc"]] or [_field_of(message) or "celora"]
        param = "celora" if name == "celora" else ".".join([place_of(form, name), *rest[:2]])
        raise RequestError(f"{param}: {message}.".replace("..", "."), param=param) from None


@contextmanager
def named_refusals(place_of: Callable[[str], str]) -> Generator[None]:
    """Name the field of a job that the installation refuses, as the request has it.

    Args:
        place_of: Returns the dotted place of a job's field in the request.

    Raises:
        SettingsError, DataError, BaseModelError: As it was raised, with the dotted place among its facts.
        RequestError: A field names something that is not there; the value is refused, and the job itself is no 404.
        NotFoundError: Something is not there that no field names.
    """
    try:
        yield
    except (SettingsError, DataError, BaseModelError, NotFoundError) as error:
        name = _field_of(error.message.removeprefix(SPEC_IS_WRONG))
        if name is not None:
            error.facts["param"] = place_of(name)
            if isinstance(error, NotFoundError):
                raise RequestError(str(failure_of(error)), param=place_of(name)) from None
        raise


def _field_of(sentence: str) -> str | None:
    """Return the field of a job with whose name a refusal begins."""
    name = re.split(r"[:. ]", sentence, maxsplit=1)[0]
    return name if name in JobSpec.model_fields else None


def place_of(form: JobForm, name: str) -> str:
    """Return the dotted place of a job's field in the request."""
    if form.celora and name in form.celora:
        return f"celora.{name}"
    if name in ("epochs", "effective_batch", "learning_rate_multiplier", "beta"):
        return f"{f'method.{form.method_name}.' if form.own_settings else ''}hyperparameters.{OWN_PLACE[name]}"
    return OWN_PLACE.get(name, {"dataset": "training_file", "base_model": "model"}.get(name, f"celora.{name}"))
