"""Schedules in a record without workers or broker: their data, their jobs, and what became of their runs."""

import json
import threading

from sqlalchemy import select

from celora.models import queries
from celora.models.datasets import register
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.services import schedules
from celora.settings.settings import get_settings

HOUR_S = 3601
"""An hour and a second, so that no two runs of a test bear the same time."""

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq"}


def write(path, *numbers):
    """Writes a file of numbered rows."""
    path.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in numbers))
    return path


def version(record, digit, tenant="default"):
    """Adds a version of ``faq`` that nobody will read."""
    uri = f"{get_settings().artifacts}/datasets/{digit}/data.jsonl"
    with record.transaction(Scope.everything) as session:
        register(session, tenant=tenant, name="faq", sha256=digit * 64, uri=uri, size_bytes=1)


def jobs(record):
    """Every job, the oldest first."""
    with record.session(Scope.everything) as session:
        return list(session.scalars(select(Job).order_by(Job.created_at, Job.id)))


def outcomes(name="s"):
    """The outcomes of a schedule's runs, the oldest first."""
    return [row["outcome"] for row in reversed(schedules.show(name)["slots"])]


def together(count, work):
    """Runs the work on several threads that begin at the same moment."""
    barrier, errors = threading.Barrier(count), []

    def run():
        barrier.wait()
        try:
            work()
        except Exception as error:  # noqa: BLE001  (a thread's error is the test's)
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def versions_of(record, job_id):
    """The versions that a job trained."""
    with record.session(Scope.everything) as session:
        return [row["version"] for row in queries.datasets_of(session, job_id).values()]
