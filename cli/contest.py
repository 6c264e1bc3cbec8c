"""How a job that competes for a champion fared, and what people preferred, in the sentences that commands print."""

from collections.abc import Iterator
from typing import Any


def verdict(job: dict[str, Any]) -> dict[str, Any] | None:
    """What the gate of a job said: name, promote, reason, figures, against; None where it has none, or not yet."""
    summary: dict[str, Any] = job.get("summary") or {}
    return summary.get("champion")


def competed(job: dict[str, Any]) -> str:
    """How a job that competes for a champion fared, in a sentence; empty where it does not, or is not judged yet."""
    outcome = verdict(job)
    if not outcome:
        return ""
    return f"{outcome['name']}: {'promoted' if outcome['promote'] else 'kept out'}, {outcome['reason']}"


def preferred(votes: dict[str, Any]) -> str:
    """People's preference in a line."""
    from ..tuning.significance import wilson  # noqa: PLC0415  (only where there are ratings)

    decided = votes["wins"] + votes["losses"]
    neither = f", {votes['neither']} times neither" if votes["neither"] else ""
    if not decided:
        return f"against {votes['against']}: undecided{neither}"
    share = wilson(votes["wins"], decided)
    return (
        f"against {votes['against']} in {share.value:.0%} of {decided} ratings "
        f"(95 % interval {share.low:.0%} … {share.high:.0%}{neither})"
    )


def contest(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Both, as the lines of ``celora status``."""
    if told := competed(job):
        yield "champion", told
    ratings: list[dict[str, Any]] = job.get("preference") or []
    for votes in ratings:
        yield "preferred", preferred(votes)
