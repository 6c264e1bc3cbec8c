"""Writes the measurements of a completed job as a file: plain CSV, numeric columns only, a line a step.

Scripts read it with pandas and look for NaN in every cell. So a column holds a number in every line: a loss that is
measured at some steps only repeats its latest measurement, and the first one before that; a column that was never
measured is left out.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import select

from ...models.database import Database
from ...models.openai import files
from ...models.scope.scope import Scope
from ...models.states import Stage, Status
from ...models.tables import File, Job, MetricPoint
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.incoming import IncomingFile

COLUMNS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "eval_loss",
    "valid_mean_token_accuracy": "eval_accuracy",
}
"""The columns after ``step``, with the attributes of a metric point that they come from."""
PURPOSE = "fine-tune-results"
"""The purpose of the files of results."""


def result_id(job_id: str) -> str:
    """Return the id of a job's file of results."""
    return f"file-result-{job_id.removeprefix('ftjob-')}"[:64]


def write_result(database: Database, settings: Settings, job_id: str) -> str | None:
    """Write the file of a job's measurements, once; return its id.

    The job is completed or about to be: its training and its evaluation have ended. None for any other job.
    """
    with database.session(Scope.everything) as session:
        job = session.get(Job, job_id)
        if job is None or (job.status is not Status.COMPLETED and job.stage is not Stage.PUBLISH):
            return None
        tenant, file_id = job.tenant, result_id(job_id)
        if session.get(File, file_id) is not None:
            return file_id
        wanted = select(MetricPoint).where(MetricPoint.job_id == job_id)
        points = list(session.scalars(wanted.order_by(MetricPoint.step, MetricPoint.attempt)))
    with IncomingFile(Artifacts(settings.artifacts)) as incoming:
        for row in table(points):
            incoming.write(_line(row))
        stored = incoming.commit(".csv")
    facts = {"filename": f"{job_id}.csv", "purpose": PURPOSE, "uri": stored.uri}
    facts |= {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
    with database.transaction(Scope.everything) as session:
        if session.get(File, file_id) is None:
            files.add(session, file_id=file_id, tenant=tenant, facts=facts, status=files.PROCESSED)
    return file_id


def table(points: Sequence[MetricPoint]) -> Iterator[tuple[str | float, ...]]:
    """Yield the header and a row of numbers for each step; the later attempt's point of a step counts."""
    steps = {point.step: point for point in points}
    series = {name: _filled([getattr(point, source) for point in steps.values()]) for name, source in COLUMNS.items()}
    measured = {name: values for name, values in series.items() if values}
    yield "step", *measured
    for place, step in enumerate(steps):
        yield step, *(values[place] for values in measured.values())


def _filled(values: Sequence[float | None]) -> list[float]:
    """Repeat the latest measurement where there is none; empty where nothing was measured."""
    last = next((value for value in values if value is not None), None)
    filled: list[float] = []
    for value in values:
        last = last if value is None else value
        filled += [] if last is None else [last]
    return filled


def _line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
