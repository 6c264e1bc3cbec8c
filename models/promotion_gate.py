"""Defines a gate, the conditions under which a challenger becomes champion, in typed fields and not a language."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..errors import did_you_mean
from ..tuning.evaluation.measures import MEASURES, NEEDS, PREFERENCE_MEASURES

PREFERENCE = "preference"
METRICS = (*MEASURES, PREFERENCE)
"""The metrics that a gate can name; people give a preference (``celora rate``)."""
CHAMPION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
REQUIRED = "must_pass"
"""The name of the held-out set that a gate's must-pass rows become."""

Source = Annotated[str, Field(min_length=1, max_length=2000)]


def known(name: str) -> str:
    """Return the metric if a gate knows it.

    Raises:
        ValueError: A gate knows no metric of that name; the message names the nearest.
    """
    if name in METRICS:
        return name
    told = f"{name!r} is no metric of a gate" + did_you_mean(name, METRICS, cutoff=0.5)
    raise ValueError(f"{told} Known are {', '.join(METRICS)}")


class Gate(BaseModel):
    """What a challenger must show on the held-out rows, against the champion, or the base where there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = Field("exact_match", description=f"what must get better: {', '.join(METRICS)}")
    min_gain: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="by how much at least, in the metric's own unit (exact match and ROUGE 0 to 1, BLEU 0 to 100, loss "
        "in nats); for preference, the win rate above one half",
    )
    must_not_regress: list[str] = Field(
        default_factory=list, description="metrics that may not get worse, not by anything; preference not among them"
    )
    must_pass: Source | None = Field(
        None, description="rows that the challenger must answer exactly, every one: a file, or a dataset's NAME@VERSION"
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = Field(
        0.95,
        description="of the interval (paired bootstrap; Wilson for preference) whose whole must be a gain; null trusts "
        "the bare difference",
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        return known(value)

    @field_validator("must_not_regress")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        for name in value:
            if known(name) == PREFERENCE:
                raise ValueError(f"{PREFERENCE} compares two adapters and has no value of its own that could regress")
        return value

    def measured(self) -> set[str]:
        """Return the metrics that the gate requires and that are scored row by row."""
        return {self.metric, *self.must_not_regress} - {PREFERENCE}


def fault_of(gate: Gate, *, metrics: list[Any], answers: int, method: str = "sft") -> str:
    """Describe what a job would not measure although its gate requires it; empty if the job measures all.

    Args:
        gate: The job's gate.
        metrics: The metrics that the job's evaluation measures beside the loss.
        answers: The number of rows for which the evaluation generates answers.
        method: The job's method of training.
    """
    for name in sorted(gate.measured() & set(PREFERENCE_MEASURES)):
        if method == "sft" or (method == "kto" and name == "reward_margin"):
            return f"its gate asks for {name}, which method {method} does not measure row by row"
    for name in sorted(gate.measured()):
        if name in NEEDS and NEEDS[name] not in metrics:
            return f"its gate asks for {name}, and metrics does not name {NEEDS[name]}"
        if name in NEEDS and not answers:
            return f"its gate asks for {name}, and eval_max_rows is 0"
    return ""
