"""Reads the results of a job's stages in full: the trainer's own result models, out of the JSON columns of the row."""

from pydantic import ConfigDict

from ...tuning.protocol import Base, EvaluateResult, PrepareResult, TrainResult
from ...tuning.recipe import Adjusted, ResolvedRecipe
from ..columns import StoredModel
from ..tables import Job
from ..tables.types import JsonObject


class Prepared(StoredModel, PrepareResult):
    """The column ``prepared``: the result of ``prepare``."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Trained(StoredModel, TrainResult):
    """The column ``result``: the result of ``train``, and the place of its adapter."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    adapter_uri: str


def limits_of(job: Job) -> Adjusted:
    """Return the limits that a device's memory forced on the job; empty limits where it forced none."""
    return Adjusted.model_validate(job.adjusted or {})


def trained_of(job: Job) -> Trained:
    """Return the result of the job's training.

    Raises:
        ValueError: The job was not trained yet.
    """
    return Trained.model_validate(job.result)


def base_of(job: Job) -> Base:
    """Return the resolved base model of a prepared job."""
    return Base.model_validate(job.base)


def recipe_of(job: Job) -> ResolvedRecipe:
    """Return the recipe that a trained job ran with, within the limits that its device's memory forced."""
    return ResolvedRecipe.model_validate(job.resolved).within(limits_of(job))


def evaluation_columns(result: EvaluateResult, uri: str, compared: JsonObject | None) -> JsonObject:
    """Build the column ``evaluation`` from a result whose rows lie at a URI."""
    column = {**result.model_dump(mode="json", exclude={"metrics"}), "uri": uri}
    return column if compared is None else {**column, "champion": compared}
