"""Maps each failure to its rule, as data, and applies the rule to one failed attempt by a pure function.

The codes are those of ``settings.errors`` and of the supervisor. Trying again costs GPU hours, so it is the exception:
only what may go better elsewhere, later or smaller is tried again. The rule for a worker's death stands in the
table too, though no code raises it: the reaper (``models.jobs.transitions.expire``) follows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.states import Reason, Ruling, Stage
from ..tuning.recipe import Adjusted

LONGEST_WAIT_S = 600.0
LOADING = "loading"
"""The phase in which a trainer that ran out of memory had not begun to train."""

Then = Literal["end", "again", "smaller"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The rule for a job whose attempt ended with an error of this class.

    Attributes:
        then: ``end`` the job; try it ``again`` with the same settings; or ``smaller``, the next rung of the ladder.
        times: The number of retries after this class of error; None: as long as attempts are left.
        paid: True if such an attempt counts against ``max_attempts``.
        waits: True if the next try waits (longer each time), because the cause needs time to pass.
        blames_device: True if the worker's device gets a fault; after two in a row the worker takes no more work.
        advice: The next step for a person, where the error itself does not name it.
    """

    then: Then = "end"
    times: int | None = None
    paid: bool = True
    waits: bool = False
    blames_device: bool = False
    advice: str = ""


RULES: dict[str, Rule] = {
    "bad_settings": Rule(advice="Correct the setting and submit again."),
    "bad_data": Rule(advice="Mend the dataset and submit again."),
    "data_limit": Rule(advice="Split or mend the dataset, or let an operator raise the limit."),
    "base_model": Rule(advice="Check the base model's name, revision and access."),
    "bad_base": Rule(advice="Mend the base model's files, or fetch them again."),
    "access": Rule(advice="Use a key that has the scope: `celora key create`."),
    "tenant_limit": Rule(advice="Let an operator raise the limit: `celora tenant set`."),
    "bad_request": Rule(advice="Correct the request and send it again."),
    "not_found": Rule(advice="Look at what the job names: `celora status ID`."),
    "non_finite_loss": Rule(advice="Lower the learning rate, or look at the rows of that step."),
    "diverged": Rule(advice="Lower the learning rate or warm up longer, and submit again."),
    "verification": Rule(advice="Look at the job's log; nothing was published."),
    "training": Rule(advice="Look at the job's log: `celora logs ID`."),
    "time_limit": Rule(advice="Its checkpoint is kept: `celora retry ID --set time_limit_minutes=…` goes on from it."),
    "disk_full": Rule(advice="Free some space on the worker; `celora retry ID` goes on from the last checkpoint."),
    "out_of_memory": Rule(
        then="smaller", paid=False, advice="Use a smaller max_length or rank, or a GPU type with more memory."
    ),
    "host_out_of_memory": Rule(
        then="again", times=2, waits=True, advice="Give the worker's machine more memory, or prepare less data at once."
    ),
    "device": Rule(
        then="again",
        times=2,
        paid=False,
        blames_device=True,
        advice="It failed on every device it was given: look at the job's log for the kernel's error.",
    ),
    "stalled": Rule(then="again", times=1, advice="The stacks in the job's log say where it hung: `celora logs ID`."),
    "killed": Rule(then="again", advice="Somebody or something ended the trainer: look at the kernel's log."),
    "storage": Rule(then="again", waits=True, advice="Look at the artifact root: `CELORA_ARTIFACT_ROOT`."),
    "unavailable": Rule(then="again", waits=True),
    "internal": Rule(then="again", waits=True, advice="The end of the job's log says more: `celora logs ID`."),
    "worker_lost": Rule(then="again", advice="Look at that worker's log; `celora retry ID` goes on."),
    "preempted": Rule(then="again", paid=False),
    "host_lost": Rule(
        then="again",
        times=5,
        paid=False,
        advice="The trainer host ended with several runs inside, again and again: look at its log, or set "
        "CELORA_SHARE=off.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An attempt that failed, as far as its rule depends on it.

    Attributes:
        stage: The stage that it ran.
        error: code, message and facts.
        stale_attempts: Attempts without progress before this one.
        progressed: True if this attempt committed a checkpoint beyond its resume point.
        faults: The number of the job's earlier failures, by code.
        recipe: micro_batch, accumulation and gradient_checkpointing that it ran with; empty before training.
        gpu: The GPU type that was asked for, or ``auto``.
        memory_bytes: The memory of the device that it ran on; 0 without a device.
        largest_bytes: The memory of the largest registered device.
    """

    stage: Stage
    error: Mapping[str, Any]
    stale_attempts: int = 0
    progressed: bool = False
    faults: Mapping[str, int] = field(default_factory=dict[str, int])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gpu: str = "auto"
    memory_bytes: int = 0
    largest_bytes: int = 0

    @property
    def code(self) -> str:
        """The class of the error."""
        return str(self.error.get("code", "internal"))

    @property
    def cause(self) -> str:
        """The class that the crash of a trainer host would have in a process of one run; else the class itself."""
        facts: Mapping[str, Any] = self.error.get("facts") or {}
        return str(facts.get("cause", self.code))


def rule_of(code: str) -> Rule:
    """Return the rule of an error code; an unknown code is treated like an internal error."""
    return RULES.get(code, RULES["internal"])


def ruling(failed: Failed, *, max_attempts: int, wait_s: float) -> Ruling:
    """Apply the table to a failed attempt.

    Args:
        failed: The attempt.
        max_attempts: Attempts without progress that a job gets.
        wait_s: The first wait; doubled with each failure of the same class, at most 10 minutes.
    """
    rule, before = rule_of(failed.code), failed.faults.get(failed.code, 0)
    blames_device = rule.blames_device or rule_of(failed.cause).blames_device
    end = Ruling(again=False, blames_device=blames_device)
    if rule.then == "end" or (rule.times is not None and before >= rule.times):
        return end
    if rule.then == "smaller":
        return next_rung(failed)
    stale = 0 if failed.progressed else failed.stale_attempts + 1
    if rule.paid and stale >= max_attempts:
        return end
    return Ruling(
        again=True,
        paid=rule.paid,
        wait_s=min(LONGEST_WAIT_S, wait_s * 2**before) if rule.waits else 0.0,
        blames_device=blames_device,
    )


def next_rung(failed: Failed) -> Ruling:
    """Choose the next limits after the device ran out of memory; the effective batch, and so the training, stays equal.

    The loss of KTO compares the rows of a micro batch, so its micro batch stays: gradient checkpointing comes at once.

    The rungs are half the micro batch and twice the accumulation, down to one row a pass; then gradient checkpointing;
    then, for a job that takes any type, a device with more memory, if one is registered.

    Example:
        Micro batch 4 of 16: at most 2 rows a pass. Micro batch 1 without checkpointing: checkpointing.
    """
    micro = int(failed.recipe.get("micro_batch") or 1)
    checkpointing = bool(failed.recipe.get("gradient_checkpointing"))
    facts: Mapping[str, Any] = failed.error.get("facts") or {}
    loading = facts.get("phase") == LOADING  # smaller passes do not make the base smaller
    fixed = failed.recipe.get("method") == "kto"
    if micro > 1 and not loading and not fixed:
        why = f"the device ran out of memory with {micro} rows a pass"
        smaller = Adjusted(micro_batch=micro // 2, gradient_checkpointing=checkpointing or None, why=why)
        return _rung(smaller, f"{why}; now at most {micro // 2}")
    if not checkpointing and failed.stage is Stage.TRAIN and not loading:
        rows = "one row" if micro == 1 else f"{micro} rows"
        why = f"the device ran out of memory with {rows} a pass"
        checkpointed = Adjusted(micro_batch=micro, gradient_checkpointing=True, why=why)
        return _rung(checkpointed, f"{why}; now with gradient checkpointing")
    if failed.gpu == "auto" and failed.largest_bytes > failed.memory_bytes > 0:
        words = f"{failed.memory_bytes / 2**30:.0f} GiB are too little even so; waits for a device with more memory"
        return Ruling(
            again=True,
            reason=Reason.ADJUSTED,
            paid=False,
            least_memory_bytes=failed.memory_bytes + 1,
            words=words,
        )
    return Ruling(again=False)


def _rung(adjusted: Adjusted, words: str) -> Ruling:
    return Ruling(again=True, reason=Reason.ADJUSTED, paid=False, adjusted=adjusted, words=words)
