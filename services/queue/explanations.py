"""Defines the records that show a waiting job: its entry in the queue, and the steps that decide its turn; no SQL."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from ...models.states import JobClass, Stage
from ...storage.json_values import JsonObject


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A waiting job as the queue shows it.

    Attributes:
        id: The job.
        tenant: Its tenant.
        stage: The stage for which it waits.
        gpu: A GPU type, or ``auto``.
        job_class: Its class.
        priority: Its priority within the tenant.
        labels: The labels that its worker must carry.
        recovered: True if it ran before, and so goes to the front.
        created_at: The time at which it was accepted.
        waited_s: Seconds since then.
        position: Its place among the jobs that wait for a slot which it could take; None where it waits for no slot.
        ahead: The jobs before it, by tenant; a tenant sees the others as one.
        earliest_at: The earliest time at which it is expected to start; None where nobody can say.
        latest_at: The latest such time.
        code: The code of the reason for which it waits; empty until a round has judged it.
        facts: The facts of that reason.
        reason: The sentence for people.
        share_used: The use of its tenant of late, as a part of what its weight gives it; None where it competes alone.
    """

    id: str
    tenant: str
    stage: Stage
    gpu: str
    job_class: JobClass
    priority: int
    labels: list[str]
    recovered: bool
    created_at: datetime
    waited_s: float
    position: int | None
    ahead: Mapping[str, int]
    earliest_at: datetime | None
    latest_at: datetime | None
    code: str
    facts: JsonObject
    reason: str
    share_used: float | None

    def plain(self) -> JsonObject:
        """Return the entry as a plain dict, in the order of its fields."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the decision.

    Attributes:
        rule: The rule: limits, slots, class, recovered, share, priority, age.
        facts: Its numbers.
        words: The sentence for people.
    """

    rule: str
    facts: JsonObject
    words: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a job waits, and when it is expected to start.

    Attributes:
        entry: The job as the queue shows it.
        steps: The steps of the decision, in their order; empty for a job that waits for no slot.
        chosen: What ``gpu: auto`` chose when the job was released last, and why; None before that.
    """

    entry: Entry
    steps: list[Step]
    chosen: JsonObject | None

    def plain(self) -> JsonObject:
        """Return the explanation as a plain dict."""
        return asdict(self)
