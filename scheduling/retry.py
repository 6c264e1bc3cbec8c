"""Which failure gets which rule, as data. The codes are those of ``settings.errors`` and of the supervisor.

Trying again costs GPU hours, so it is the exception: only what may go better elsewhere or later is tried again, and
only while attempts without progress are left.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What happens to a job whose attempt ended with an error of this class.

    Attributes:
        again: Whether another attempt may go better with the same settings.
        advice: What a person is told to do, where the error itself does not say it.
    """

    again: bool
    advice: str = ""


RULES: dict[str, Rule] = {
    "bad_settings": Rule(again=False, advice="Correct the setting and submit again."),
    "bad_data": Rule(again=False, advice="Mend the dataset and submit again."),
    "data_limit": Rule(again=False, advice="Split or mend the dataset, or let an operator raise the limit."),
    "base_model": Rule(again=False, advice="Check the base model's name, revision and access."),
    "not_found": Rule(again=False),
    "non_finite_loss": Rule(again=False, advice="Lower the learning rate, or look at the rows of that step."),
    "verification": Rule(again=False, advice="Look at the job's log; nothing was published."),
    "out_of_memory": Rule(
        again=False, advice="Use a smaller micro_batch or max_length, or a GPU type with more memory."
    ),
    "disk_full": Rule(again=False, advice="Free some space on the worker and submit again."),
    "training": Rule(again=False),
    "killed": Rule(again=True, advice="The machine may have run out of memory: look at the kernel's log."),
    "storage": Rule(again=True),
    "unavailable": Rule(again=True),
    "internal": Rule(again=True, advice="The end of the job's log says more: `celora logs ID`."),
}


def rule_of(code: str) -> Rule:
    """The rule of an error code; an unknown one is treated like an internal error."""
    return RULES.get(code, RULES["internal"])


def tried_enough(stale_attempts: int, max_attempts: int) -> bool:
    """Whether this failed attempt was the last that a job without progress gets."""
    return stale_attempts + 1 >= max_attempts
