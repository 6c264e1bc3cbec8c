"""The job spec: what a caller asks for, validated once, at the edge. Unknown fields name the nearest known one."""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from ..settings.errors import SettingsError
from ..tuning.formats import check_columns
from ..tuning.recipe import Recipe
from .gate import CHAMPION_PATTERN, REQUIRED, Gate, fault_of

Metric = Literal["exact_match", "rouge", "bleu"]
JOB_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

SYNONYMS = {
    "model": "base_model",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lr": "learning_rate",
    "batch_size": "micro_batch",
    "per_device_train_batch_size": "micro_batch",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "n_epochs": "epochs",
    "max_seq_length": "max_length",
    "training_file": "dataset",
    "validation_file": "eval_dataset",
    "use_dora": "dora",
    "use_rslora": "rslora",
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "priority_level": "priority",
}
"""Names that other tools use, so that a refusal can say ours."""


class JobSpec(Recipe):
    """One request to fine-tune: what to train on, for whom, where, and the recipe."""

    base_model: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)] = Field(
        description="a name of the base catalogue, a hub id, a local folder or a .gguf file"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub base; the job records the commit")
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="training rows: a .jsonl, .json, .csv or .parquet file (.gz too), NAME or NAME@VERSION of a known "
        "dataset, or an allowed source: https://…, s3://…, gs://…, hub:OWNER/NAME?config=…&split=…&revision=…"
    )
    eval_dataset: str | dict[str, str] | None = Field(
        None, description="held-out rows: a file, or several by name; the first is the one the metrics speak of"
    )
    columns: Annotated[dict[str, str], Field(max_length=32)] = Field(
        default_factory=dict, description="other names in the data: what it calls the columns that celora knows"
    )
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of the training rows held out when there is no eval_dataset; 0 trains on all"
    )
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="what becomes of training rows that repeat another one, case and white space aside"
    )
    near_duplicates: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="rows that share so much of their words (0.8, say) count as repeated too; unset asks nothing"
    )
    tenant: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = Field(
        "default", description="who pays"
    )
    user: Annotated[str, StringConstraints(max_length=200)] = Field("", description="who asked")
    gpu: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")] = Field(
        "auto", description="a GPU type of the catalogue, or auto: the cheapest whose memory fits"
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        0, description="within a tenant, a higher number runs sooner"
    )
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes of training, over all attempts, after which the job checkpoints and ends"
    )
    stage_time_limit_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes that any one stage may take, for each attempt"
    )
    metadata: Annotated[dict[str, str], Field(max_length=16)] = Field(
        default_factory=dict, description="up to 16 labels of your own"
    )
    suffix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = Field(
        "", description="becomes a part of the adapter's name"
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="seed of data order, initialisation and dropout; chosen and recorded unless set"
    )
    metrics: list[Metric] = Field(
        default_factory=lambda: ["exact_match", "rouge", "bleu"],
        description="what evaluate measures beside loss and perplexity",
    )
    eval_max_rows: Annotated[int, Field(ge=0)] = Field(200, description="rows for which evaluate generates answers")
    eval_max_new_tokens: Annotated[int, Field(gt=0)] = Field(256, description="tokens generated per row at most")
    champion: Annotated[str, StringConstraints(pattern=CHAMPION_PATTERN)] | None = Field(
        None, description="the champion that the adapter competes for; needs an eval_dataset, whose rows decide"
    )
    gate: Gate | None = Field(
        None,
        description="what it must show to become champion: metric, min_gain, must_not_regress, must_pass, confidence "
        "(docs/champions.md)",
    )

    @field_validator("eval_dataset")
    @classmethod
    def _named_sets(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, dict) and not value:
            raise ValueError("an empty mapping names no held-out rows; leave eval_dataset away instead")
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        try:
            check_columns(value)
        except SettingsError as error:
            raise ValueError(f"{error.message.removeprefix('columns: ').removesuffix('.')}. {error.hint}") from None
        return value

    @model_validator(mode="after")
    def _fair_contest(self) -> Self:
        """A champion is beaten on fixed rows, by what is measured on them."""
        if self.champion is None and self.gate is not None:
            raise ValueError("gate: it belongs to a champion; name the one that the job competes for: champion")
        if self.champion is None:
            return self
        if not self.eval_dataset:
            raise ValueError(
                f"champion: {self.champion} needs rows to be compared on; give them as eval_dataset (a share of the "
                "training rows would change with the data)"
            )
        if isinstance(self.eval_dataset, dict) and REQUIRED in self.eval_dataset:
            raise ValueError(f"eval_dataset: {REQUIRED} is what the gate's must_pass rows are called; call it else")
        fault = fault_of(self.contest, metrics=self.metrics, answers=self.eval_max_rows)
        if fault:
            raise ValueError(f"champion: {fault}")
        return self

    @property
    def contest(self) -> Gate:
        """The gate in force."""
        return self.gate or Gate()  # pyright: ignore[reportCallIssue]

    def recipe(self) -> Recipe:
        """The training settings alone."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})


def parse_spec(fields: dict[str, Any]) -> JobSpec:
    """Validate a job spec.

    Raises:
        SettingsError: A field is unknown (the message names the nearest known one), missing or out of range; every
            fault is in the one message.
    """
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(_sentence(dict(fault)) for fault in error.errors())
        raise SettingsError(
            f"the job spec is wrong: {faults}" + ("" if faults.endswith("?") else "."),
            hint="See `celora submit --help` for every field.",
        ) from None


def _sentence(fault: dict[str, Any]) -> str:
    told = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return told
    name = str(fault["loc"][0])
    if name == "gate" and len(fault["loc"]) > 1:
        field = str(fault["loc"][1])
        if fault["type"] != "extra_forbidden":
            return f"gate.{field}: {told}"
        near = difflib.get_close_matches(field, Gate.model_fields, n=1)
        return f"{field} is no field of a gate" + (f"; did you mean {near[0]}?" if near else "")
    if fault["type"] == "extra_forbidden":
        nearest = SYNONYMS.get(name) or next(iter(difflib.get_close_matches(name, JobSpec.model_fields, n=1)), None)
        return f"{name} is no field" + (f"; did you mean {nearest}?" if nearest else "")
    if fault["type"] == "missing":
        return f"{name} is missing"
    return f"{name}: {told}"
