"""Validates the job spec once, at the edge; the error for an unknown field names the nearest known field.

A spec of the record is read with ``stored_spec``, which ignores unknown fields.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from ..errors import SettingsError, did_you_mean
from ..settings.redaction import redactor
from ..tuning.recipe import Recipe
from ..tuning.rows.formats import check_columns
from ..tuning.run_checks import contradictions
from ..tuning.synonyms import advice_on
from .promotion_gate import CHAMPION_PATTERN, REQUIRED, Gate, fault_of
from .queue.labels import label_text
from .states import JobClass

Metric = Literal["exact_match", "rouge", "bleu"]
CONTINUE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}(@[0-9]{1,9})?$"
JOB_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

PARENTS_BASE = "(base of continue_from)"
"""Base of a job that leaves the base to the adapter which it goes on from, until the job is written."""

LONGEST_LABEL = {"name": 64, "value": 512}
"""Characters of a metadata label; the lengths are those of OpenAI's API."""
LONGEST_SHOWN = 60
"""Characters of a refused value that a message repeats."""


RunLabel = Literal["project", "entity", "name", "tags"]
"""The names of a run in Weights & Biases."""


class JobSpec(Recipe):
    """One request to fine-tune: what to train on, for whom, where, and the recipe."""

    base_model: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)] = Field(
        description="a name of the base catalogue, a hub id, a local folder or a .gguf file"
    )
    continue_from: Annotated[str, StringConstraints(pattern=CONTINUE_PATTERN)] | None = Field(
        None,
        description="train on from an adapter of the tenant: JOB, JOB@STEP, or the name of an adapter or a champion; "
        "base, rank, alpha and target modules are its own, optimizer and schedule begin anew",
    )
    reference: Annotated[str, StringConstraints(pattern=CONTINUE_PATTERN)] | None = Field(
        None,
        description="dpo, kto: the adapter that the model is compared with, named like continue_from, or base; the "
        "adapter that training goes on from unless set, else the base",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub base; the job records the commit")
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="training rows: a .jsonl, .json, .csv, .tsv or .parquet file (.gz too), a folder of them, NAME or "
        "NAME@VERSION of a known dataset, or an allowed source: https://…, s3://…, gs://…, "
        "hub:OWNER/NAME?config=…&split=…&revision=…"
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
    unknown_keys: Literal["refuse", "warn", "ignore"] = Field(
        "warn", description="what becomes of keys in the rows that are neither read nor known to be harmless"
    )
    too_long: Literal["cut", "drop"] = Field(
        "cut", description="what becomes of rows longer than max_length: cut at their end, or left out"
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
    job_class: JobClass = Field(
        JobClass.NORMAL,
        description="urgent, normal or background: every job of a class comes before those below it; "
        "an operator grants urgent",
    )
    labels: list[str] = Field(
        default_factory=list, description="names that the worker must carry, all of them (`celora node --labels`)"
    )
    exclusive: bool = Field(
        default=False, description="train and evaluate in processes of the job's own, never in one that other jobs use"
    )
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes of training, over all attempts, after which the job checkpoints and ends"
    )
    stage_time_limit_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes that any one stage may take, for each attempt"
    )
    budget: Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)] | None = Field(
        None, description="money that the job may cost, in the currency of the prices; it then checkpoints and pauses"
    )
    metadata: Annotated[dict[str, str], Field(max_length=16)] = Field(
        default_factory=dict, description="up to 16 labels of your own: names of 64 characters, values of 512"
    )
    wandb: dict[RunLabel, Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict[RunLabel, str],
        description="where report_to: wandb reports: project, entity, name, tags (apart by commas)",
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

    @field_validator("tenant")
    @classmethod
    def _tenant_is_no_folder_above(cls, tenant: str) -> str:
        if not tenant.strip("."):
            raise ValueError("a name of dots alone is no tenant's")
        return tenant

    @field_validator("eval_dataset")
    @classmethod
    def _named_sets(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, dict) and not value:
            raise ValueError("an empty mapping names no held-out rows; leave eval_dataset away instead")
        return value

    @field_validator("labels")
    @classmethod
    def _possible_labels(cls, value: list[str]) -> list[str]:
        try:
            text = label_text(value)
        except SettingsError as error:
            raise ValueError(f"{error.message.removeprefix('labels: ').removesuffix('.')}. {error.hint}") from None
        return text.split(",") if text else []

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
        """Check that the job measures what its gate requires, on fixed rows."""
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
        fault = fault_of(self.contest, metrics=self.metrics, answers=self.eval_max_rows, method=self.method)
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


LARGEST_NUMBER = 2**31 - 1
"""The largest whole number of a spec; the record's columns hold no larger one."""
SPEC_IS_WRONG = "the job spec is wrong: "
SHOWN_FAULTS = 20
"""Faults of a spec that its refusal names; their search for a similar name costs milliseconds each."""
SHOWN_LETTERS = 100
"""Letters of a field's name that a refusal shows."""


def parse_spec(fields: dict[str, Any]) -> JobSpec:
    """Validate a job spec; a field that is null counts as unset.

    Rules that an earlier version did not have stand here and not in the model, so that the record's own specs stay
    readable.

    Raises:
        SettingsError: A field is unknown (the message names the nearest known one), missing or out of range, or the
            fields contradict each other; the first faults and the number of the others are in the one message.
    """
    given = {name: value for name, value in fields.items() if value is not None or name not in JobSpec.model_fields}
    if given.get("continue_from"):
        given.setdefault("base_model", PARENTS_BASE)
    try:
        spec = JobSpec.model_validate(given)
    except ValidationError as error:
        shown = error.errors(include_url=False, include_context=False)[:SHOWN_FAULTS]
        raise _refusal([_sentence(dict(fault)) for fault in shown], error.error_count()) from None
    if spec.reference is not None and spec.method not in ("dpo", "kto"):
        raise _refusal([f"reference: method {spec.method} compares with no reference; write method: dpo, or kto"], 1)
    faults = [
        *_long_labels(spec.metadata),
        *_large_numbers(spec),
        *contradictions(spec, held_out=bool(spec.eval_dataset or spec.eval_fraction)),
    ]
    if faults:
        raise _refusal(faults[:SHOWN_FAULTS], len(faults))
    return spec


def stored_spec(fields: Mapping[str, Any]) -> JobSpec:
    """Read a spec of the record; fields of a later version are ignored."""
    return JobSpec.model_validate(known_fields(fields))


def known_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a stored spec that this version knows.

    During an upgrade, programs of two versions work on one record, and the later one may have added fields.
    """
    known = {name: value for name, value in fields.items() if name in JobSpec.model_fields}
    gate: dict[str, Any] | None = known.get("gate")
    if isinstance(gate, dict):
        known["gate"] = {name: value for name, value in gate.items() if name in Gate.model_fields}
    return known


def _refusal(shown: list[str], faults: int) -> SettingsError:
    told = "; ".join(shown) + (f"; and {faults - len(shown):,} more" if faults > len(shown) else "")
    return SettingsError(
        f"{SPEC_IS_WRONG}{told}" + ("" if told.endswith(("?", ".")) else "."),
        hint="See `celora submit --help` for every field.",
    )


def _large_numbers(spec: JobSpec) -> Iterator[str]:
    """Yield a sentence for each whole number that is too large."""
    for name in JobSpec.model_fields:
        value: object = getattr(spec, name)
        if isinstance(value, int) and value > LARGEST_NUMBER:
            yield f"{name}: the largest number is {LARGEST_NUMBER:,}"


def _long_labels(labels: dict[str, str]) -> Iterator[str]:
    """Yield a sentence for each label that is too long to be one."""
    for name, value in labels.items():
        for part, text in (("name", name), ("value", value)):
            if len(text) > LONGEST_LABEL[part]:
                shown = name if len(name) <= LONGEST_SHOWN else name[:LONGEST_SHOWN] + "…"
                yield (
                    f"metadata: the {part} of the label {shown!r} has {len(text):,} characters, and may have "
                    f"{LONGEST_LABEL[part]}"
                )


def _sentence(fault: dict[str, Any]) -> str:
    told = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return told
    name = str(fault["loc"][0])[:SHOWN_LETTERS]
    if name == "gate" and len(fault["loc"]) > 1:
        field = str(fault["loc"][1])[:SHOWN_LETTERS]
        if fault["type"] != "extra_forbidden":
            return f"gate.{field}: {told}{_shown(fault)}"
        return f"{field} is no field of a gate" + did_you_mean(field, Gate.model_fields, otherwise="")
    if fault["type"] == "extra_forbidden":
        return f"{name} is no field" + (advice_on(name) or did_you_mean(name, JobSpec.model_fields, otherwise=""))
    if fault["type"] == "missing":
        return f"{name} is missing"
    label = next((f".{key}" for key in fault["loc"][1:2] if name in ("metadata", "columns")), "")
    return f"{name}{label}: {told}{_shown(fault)}"


def _shown(fault: dict[str, Any]) -> str:
    """Format the refused value as YAML and JSON write it; empty where the value is long."""
    value = fault.get("input")
    if fault["type"] == "string_type" and isinstance(value, bool | int | float):
        written = json.dumps(value)
        kind = "a switch" if isinstance(value, bool) else "a number"
        return f'; {written} is {kind}: write "{written}"'
    if fault["type"] == "value_error" or not isinstance(value, str | bool | int | float):
        return ""
    written = redactor().text(json.dumps(value, ensure_ascii=False))
    return f", not {written}" if len(written) <= LONGEST_SHOWN else ""
