"""A gate: what a challenger must show to become champion. Typed fields, not a language."""

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..tuning.evaluated import MEASURES, NEEDS

PREFERENCE = "preference"
METRICS = (*MEASURES, PREFERENCE)
"""What a gate can speak of; a preference is people's (``celora rate``)."""
CHAMPION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
REQUIRED = "must_pass"
"""The name of the held-out set that a gate's must-pass rows become."""

Source = Annotated[str, Field(min_length=1, max_length=2000)]


def known(name: str) -> str:
    """The metric itself.

    Raises:
        ValueError: A gate knows none of that name; the message names the nearest.
    """
    if name in METRICS:
        return name
    near = difflib.get_close_matches(name.lower().replace("-", "_"), METRICS, n=1, cutoff=0.5)
    told = f"{name!r} is no metric of a gate" + (f"; did you mean {near[0]}?" if near else ".")
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
        """The metrics that it asks for and that rows are scored by."""
        return {self.metric, *self.must_not_regress} - {PREFERENCE}


def fault_of(gate: Gate, *, metrics: list[Any], answers: int) -> str:
    """What a job would not measure although its gate asks for it; empty if it measures all.

    Args:
        gate: The job's.
        metrics: What the job's evaluation measures beside the loss.
        answers: For how many rows it generates answers.
    """
    for name in sorted(gate.measured()):
        if name in NEEDS and NEEDS[name] not in metrics:
            return f"its gate asks for {name}, and metrics does not name {NEEDS[name]}"
        if name in NEEDS and not answers:
            return f"its gate asks for {name}, and eval_max_rows is 0"
    return ""
