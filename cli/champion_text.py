"""Describes the result of a job that competes for a champion, and people's preferences, in the commands' sentences."""

from collections.abc import Iterator

from ..models.views import JobDetail
from ..storage.json_values import JsonObject


def verdict(job: JobDetail) -> JsonObject | None:
    """The gate's decision about a job as JSON: name, promote, reason, figures, against; None without one."""
    return job.summary.get("champion") if job.summary is not None else None


def competed(job: JobDetail) -> str:
    """The gate's decision about a job in a sentence; empty where it competes for no champion, or is not judged yet."""
    outcome = job.outcome
    if outcome is None:
        return ""
    return f"{outcome.name}: {'promoted' if outcome.promote else 'kept out'}, {outcome.reason}"


def preferred(votes: JsonObject) -> str:
    """People's preference in a line."""
    from ..tuning.evaluation.significance import wilson  # noqa: PLC0415  (only where there are ratings)

    decided = votes["wins"] + votes["losses"]
    neither = f", {votes['neither']} times neither" if votes["neither"] else ""
    if not decided:
        return f"against {votes['against']}: undecided{neither}"
    share = wilson(votes["wins"], decided)
    return (
        f"against {votes['against']} in {share.value:.0%} of {decided} ratings "
        f"(95 % interval {share.low:.0%} … {share.high:.0%}{neither})"
    )


def contest(job: JobDetail) -> Iterator[tuple[str, str]]:
    """Both, as the lines of ``celora status``."""
    if told := competed(job):
        yield "champion", told
    for votes in job.preference:
        yield "preferred", preferred(votes)
