# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Compares the expected start of twenty small jobs of three tenants with the truth, on three real CPU workers.

Ten jobs run first, so that the record has a history by which estimates are corrected. Then twenty jobs of different
lengths are prepared while the workers are cordoned. The workers are uncordoned, the queue is asked once for the
expected start of each job (the middle of its range), and the jobs run. The error of a job is the difference between
the expected and the real wait, divided by the real wait; jobs that start within some seconds are left out. It depends
on how evenly the machine works, so no bound is checked. Prints one JSON object; ``--write`` keeps it.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from celora.models import queries, workers
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Worker

RESULTS = Path(__file__).parent / "results" / "expected_start.json"
WORKERS, HISTORY, JOBS, TENANTS = 3, 10, 20, 3
STEPS = (4, 8, 12, 16)
"""Optimizer steps of the jobs, in turn."""
LEAST_WAIT_S = 5.0
"""Shorter waits are left out: the error of a second would be large beside them."""
SETTINGS = {"CELORA_TICK_S": "1", "CELORA_TRAINER_THREADS": "1", "OMP_NUM_THREADS": "1"}
ENDS_S = 1200.0


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--history", type=int, default=HISTORY)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(SETTINGS, CELORA_HOME=f"{scratch}/home")
        from celora.workers.node.installation import Installation  # noqa: PLC0415  (reads CELORA_HOME at import)

        with Installation(flower=False, api=False) as installation:
            for number in range(1, WORKERS):
                installation.node._worker(f"cpu-{number}", ["--gpu", str(number)])  # noqa: SLF001
            compared = measure(Path(scratch), given.history, given.jobs)
    errors = sorted(abs(one["expected_s"] - one["waited_s"]) / one["waited_s"] for one in compared)
    inside = sum(one["earliest_s"] <= one["waited_s"] <= one["latest_s"] for one in compared)
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "workers": WORKERS,
        "history": given.history,
        "jobs": given.jobs,
        "compared": len(compared),
        "median_relative_error": round(statistics.median(errors), 3),
        "relative_error_from_to": [round(errors[0], 3), round(errors[-1], 3)],
        "inside_the_range": inside,
        "took_s": round(time.monotonic() - began),
        "each": compared,
    }
    print(json.dumps(report, indent=1))
    if given.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(scratch: Path, history: int, jobs: int) -> list[dict[str, float]]:
    """Return the expected and the real wait of each job, seconds from the moment of the question."""
    from references import random_base  # noqa: PLC0415  (beside this script; it imports torch)

    base = random_base(scratch / "base", vocabulary=512, hidden=128, layers=2)
    rows = scratch / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"w{3 + n} w{4 + n}", "completion": f"w{5 + n}"}) + "\n"
                            for n in range(64)), encoding="utf-8")  # fmt: skip
    specs = [
        {
            "base_model": str(base), "dataset": str(rows), "max_steps": STEPS[number % len(STEPS)],
            "effective_batch": 4, "seed": number, "tenant": f"team-{number % TENANTS}",
        }
        for number in range(history + jobs)
    ]  # fmt: skip
    await_workers()
    ended([submit(spec) for spec in specs[:history]])
    print(f"{history} jobs have ended", file=sys.stderr, flush=True)
    cordon(taken=True)
    ids = [submit(spec) for spec in specs[history:]]
    until(lambda: all(job["stage"] == "train" for job in read(ids)), "every job is prepared")
    cordon(taken=False)
    asked_at, places = expected(ids)
    ended(ids)
    return [compare(places[job_id], starts_s) for job_id, starts_s in begun(ids, asked_at).items()
            if job_id in places and starts_s >= LEAST_WAIT_S]  # fmt: skip


def compare(place: tuple[float, float], waited_s: float) -> dict[str, float]:
    """Put a forecast beside the truth."""
    figures = {"earliest_s": place[0], "latest_s": place[1], "expected_s": sum(place) / 2, "waited_s": waited_s}
    return {name: round(seconds, 1) for name, seconds in figures.items()}


def submit(spec: dict[str, Any]) -> str:
    """Submit a job and return its id."""
    from celora.services import jobs  # noqa: PLC0415  (reads CELORA_HOME at import)

    return jobs.submit(spec)


def expected(ids: list[str]) -> tuple[datetime, dict[str, tuple[float, float]]]:
    """Return the database's time, and the seconds until the earliest and the latest start of each waiting job."""
    from celora.services.queue.listing import list_queue  # noqa: PLC0415

    with get_database().session(Scope.everything) as session:
        at = get_database().now(session)
    found = {entry.id: entry for entry in list_queue(limit=len(ids))}
    return at, {
        job_id: ((entry.earliest_at - at).total_seconds(), (entry.latest_at - at).total_seconds())
        for job_id, entry in found.items()
        if job_id in ids and entry.earliest_at is not None and entry.latest_at is not None
    }


def begun(ids: list[str], asked_at: datetime) -> dict[str, float]:
    """Return the seconds until each job began to train."""
    found = dict[str, float]()
    with get_database().session(Scope.everything) as session:
        for job_id in ids:
            starts = [event for event in queries.events(session, job_id)
                      if event["kind"] == "stage_started" and event["data"]["stage"] == "train"]  # fmt: skip
            found[job_id] = (starts[0]["at"] - asked_at).total_seconds()
    return found


def cordon(*, taken: bool) -> None:
    """Take the GPU workers out of work, or put them back."""
    with get_database().transaction(Scope.everything) as session:
        for name in online(session):
            (workers.cordon if taken else workers.uncordon)(session, name)


def online(session: Session) -> list[str]:
    """List the GPU workers."""
    return list(session.scalars(select(Worker.id).where(Worker.kind == "gpu", Worker.status == "online")))


def await_workers() -> None:
    """Wait until every worker has registered."""

    def registered() -> bool:
        with get_database().session(Scope.everything) as session:
            return len(online(session)) == WORKERS

    until(registered, "every worker is registered")


def read(ids: list[str]) -> list[dict[str, Any]]:
    """Read the jobs."""
    with get_database().session(Scope.everything) as session:
        return [queries.job_detail(session, job_id).plain() for job_id in ids]


def ended(ids: list[str]) -> None:
    """Wait until the jobs have completed."""
    until(lambda: all(job["status"] in ("completed", "failed") for job in read(ids)), "every job has ended")
    failed = [job for job in read(ids) if job["status"] != "completed"]
    assert not failed, failed  # noqa: S101


def until(condition: Any, what: str) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + ENDS_S
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {ENDS_S:.0f} s: {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
