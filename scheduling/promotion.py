"""Decides whether a challenger becomes champion, purely from the rows that both answered, with a reason in numbers.

A gain counts if the metric is better by at least ``min_gain``, and if the whole confidence interval of the difference
lies on the better side. A metric that must not regress may not be worse by any amount, and must-pass rows are answered
exactly. In doubt (too few rows, a metric that was not measured, no ratings) the champion stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.promotion_gate import PREFERENCE, Gate
from ..models.ratings import Votes
from ..tuning.evaluation.measures import LABELS, LOWER_IS_BETTER, MEASURES, TOOL_MEASURES, Line, pairs
from ..tuning.evaluation.significance import Interval, over, paired_bootstrap, wilson

LEAST_ROWS = 10
"""With fewer rows an interval from resampling has no meaning: five rows that all improved would give certainty."""
ROUNDING = 1e-9
PERCENT = frozenset(
    {"exact_match", "exact_match_raw", *TOOL_MEASURES, "rouge_1", "rouge_2", "rouge_l", PREFERENCE, "reward_accuracy"}
)
SHOWN = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's decision: promote or not, the reason in words and numbers, and the numbers."""

    promote: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


def judge(
    gate: Gate,
    lines: Sequence[Line],
    *,
    rival: str,
    challenger: str = "tuned",
    must_pass: Sequence[Line] = (),
    unasked: int = 0,
    votes: Votes | None = None,
) -> Verdict:
    """Judge a challenger.

    Args:
        gate: The conditions of the promotion.
        lines: The deciding rows, answered and scored for both (tuning.evaluated).
        rival: The side to beat: the champion's, or ``base`` where there is no champion.
        challenger: The challenger's side.
        must_pass: The rows that the challenger must answer exactly.
        unasked: Must-pass rows that could not be asked, because they are too long.
        votes: People's choices between the two; None where no person was asked.
    """
    findings: list[tuple[bool, str]] = []
    figures: dict[str, Any] = {"metric": gate.metric, "rival": rival}
    if gate.metric == PREFERENCE:
        findings.append(_preferred(gate, votes, figures))
    else:
        findings.append(_better(gate, lines, challenger, rival, figures))
    regressed: dict[str, float] = {}
    findings.extend(_kept_up(name, lines, challenger, rival, regressed) for name in gate.must_not_regress)
    if regressed:
        figures["changes"] = regressed
    if gate.must_pass:
        findings.append(_passed(must_pass, challenger, unasked, figures))
    return Verdict(all(good for good, _ in findings), "; ".join(told for _, told in findings), figures)


def words(name: str, interval: Interval) -> str:
    """Describe a difference in words: ``exact match +2.1 points, 95 % interval +0.6 … +3.3``."""
    at = f"{interval.confidence * 100:g} % interval {amount(name, interval.low)} … {amount(name, interval.high)}"
    return f"{LABELS[name]} {amount(name, interval.value)}{unit(name)}, {at}"


def amount(name: str, difference: float) -> str:
    """Format a signed difference in the unit that people use: points of a hundred, or nats."""
    scaled, digits = (difference * 100, 1) if name in PERCENT else (difference, 1 if name == "bleu" else 4)
    return f"{scaled:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def unit(name: str) -> str:
    """Return the unit of ``amount``."""
    return " nats" if name in LOWER_IS_BETTER else " points"


def _better(
    gate: Gate, lines: Sequence[Line], challenger: str, rival: str, figures: dict[str, Any]
) -> tuple[bool, str]:
    name = gate.metric
    ours, theirs = pairs(lines, challenger, rival, name)
    if not ours:
        return False, f"{LABELS[name]} was not measured for both, so nothing is known"
    lower = name in LOWER_IS_BETTER
    found = paired_bootstrap(ours, theirs, MEASURES[name], confidence=gate.confidence or 0.95)
    gain = -found.value if lower else found.value
    surely = -found.high if lower else found.low
    figures |= {
        "value": over(MEASURES[name], ours),
        "rival_value": over(MEASURES[name], theirs),
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "rows": found.count,
    }
    told = f"{words(name, found)} over {found.count} rows"
    if not gain > ROUNDING:
        return False, f"{told}: no gain"
    if gain < gate.min_gain - ROUNDING:
        return False, f"{told}: less than the {amount(name, gate.min_gain)}{unit(name)} that are asked for"
    if gate.confidence is not None and found.count < LEAST_ROWS:
        return False, f"{told}: fewer than {LEAST_ROWS} rows cannot tell a gain from chance"
    if gate.confidence is not None and not surely > ROUNDING:
        return False, f"{told}: not enough, it may be chance"
    return True, told


def _kept_up(
    name: str, lines: Sequence[Line], challenger: str, rival: str, changes: dict[str, float]
) -> tuple[bool, str]:
    ours, theirs = pairs(lines, challenger, rival, name)
    if not ours:
        return False, f"{LABELS[name]} may not regress and was not measured for both"
    change = over(MEASURES[name], ours) - over(MEASURES[name], theirs)
    changes[name] = change
    worse = change > ROUNDING if name in LOWER_IS_BETTER else not change >= -ROUNDING
    told = f"{LABELS[name]} {amount(name, change)}{unit(name)}"
    return not worse, f"{told} may not regress" if worse else told


def _passed(lines: Sequence[Line], challenger: str, unasked: int, figures: dict[str, Any]) -> tuple[bool, str]:
    lines = [line for line in lines if line.get("wanted", True)]  # (nobody must say an unwanted answer)
    failed = [line for line in lines if not line.get(f"exact_{challenger}")]
    figures["must_pass"] = {"rows": len(lines), "failed": len(failed), "unasked": unasked}
    if unasked:
        return False, f"{unasked} must-pass rows are too long to be asked"
    if not lines:
        return False, "no must-pass row was asked"
    if failed:
        first = failed[0]
        what = f"wanted {_short(first['reference'])}, said {_short(first.get(challenger))}"
        return False, f"{len(failed)} of {len(lines)} must-pass rows failed, first {_short(first['prompt'])}: {what}"
    return True, f"all {len(lines)} must-pass rows right"


def _preferred(gate: Gate, votes: Votes | None, figures: dict[str, Any]) -> tuple[bool, str]:
    if votes is None or not votes.decided:
        return False, "nobody has rated the two yet (celora rate)"
    found = wilson(votes.wins, votes.decided, confidence=gate.confidence or 0.95)
    figures |= {"value": found.value, "low": found.low, "high": found.high, "confidence": found.confidence}
    figures |= {"wins": votes.wins, "losses": votes.losses, "neither": votes.neither}
    told = (
        f"preferred in {found.value:.0%} of {votes.decided} ratings, "
        f"{found.confidence * 100:g} % interval {found.low:.0%} … {found.high:.0%}"
    )
    gain = found.value - 0.5
    if not gain > ROUNDING:
        return False, f"{told}: no gain"
    if gain < gate.min_gain - ROUNDING:
        return False, f"{told}: less than the {0.5 + gate.min_gain:.0%} that are asked for"
    if gate.confidence is not None and not found.low > 0.5:  # noqa: PLR2004  (an even split)
        return False, f"{told}: not enough, it may be chance"
    return True, told


def _short(text: Any) -> str:
    words_ = " ".join(str(text).split())
    return f"“{words_ if len(words_) <= SHOWN else words_[: SHOWN - 1] + '…'}”"
