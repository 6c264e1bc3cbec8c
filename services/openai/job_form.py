"""Reads the request that makes a job: OpenAI's form, and the object ``celora`` for every further field of a job.

Unknown fields are refused: a setting that is misspelled would otherwise cost a training. Null counts as unset, because
clients send it for every argument that their caller left out.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import RequestError
from ...models.spec import JobSpec
from ...tuning.files.strict_json import JsonObject

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
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
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
            RequestError: Both places have settings, and they differ.
        """
        inner = self.own_settings
        outer = self.hyperparameters
        given = [one for one in (inner, outer) if one is not None and one.model_dump(exclude_none=True)]
        if len(given) > 1 and inner != outer:
            raise RequestError(
                f"hyperparameters and method.{self.method_name}.hyperparameters differ; give one of them.",
                param="hyperparameters",
            )
        return given[0] if given else Hyperparameters()


def refuse_unsupported(form: JobForm, *, may_report: bool = False) -> None:
    """Refuse a method that is not offered, and an integration that has no secret.

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
    fields |= {"epochs": asked.n_epochs, "effective_batch": asked.batch_size}
    fields |= {"learning_rate_multiplier": asked.learning_rate_multiplier}
    if form.method_name == "dpo":
        fields |= {"method": "dpo", "beta": getattr(asked, "beta", None)}
    fields |= _tracked(form)
    fields = {name: value for name, value in fields.items() if value not in (None, "auto")}
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
        name, *rest = [str(part) for part in fault["loc"]] or ["celora"]
        param = ".".join([_place(form, name), *rest[:2]])
        message = str(fault["msg"]).removeprefix("Value error, ")
        raise RequestError(f"{param}: {message}.".replace("..", "."), param=param) from None


def _place(form: JobForm, name: str) -> str:
    """Return the dotted place of a job's field in the request."""
    if form.celora and name in form.celora:
        return f"celora.{name}"
    if name in ("epochs", "effective_batch", "learning_rate_multiplier", "beta"):
        return f"{f'method.{form.method_name}.' if form.own_settings else ''}hyperparameters.{OWN_PLACE[name]}"
    return OWN_PLACE.get(name, {"dataset": "training_file", "base_model": "model"}.get(name, f"celora.{name}"))
