"""Measures the queue at 100,000 waiting jobs and 500 workers, on SQLite and on PostgreSQL.

The program makes the rows itself (``queue_parts/rows.py``). It measures, as medians of the wall time (``_s``) and of
this process's CPU time (``_cpu_s``; SQLite works inside of it):

* ``first_round``: the first round over a record that no round has seen (once),
* ``idle_tick``: a tick with nothing to do, since every slot is held: the round, and the look for lost messages, for
  ends that were not announced and for files that were not checked; ``idle_round`` is the round alone,
* ``limits``: the part of it that looks for holds and limits,
* ``queues``: the figures of ``celora queues``,
* ``place``: place, expected start and reason of the last waiting job, as ``celora why`` asks for them,
* ``decide``: one decision with 32 free slots, without writing it,
* ``two_dispatchers``: two processes that decide and run rounds over 32 free slots at once: the number of jobs that were
  sent, which must be 32, of those that were sent twice, and the decisions' median,
* ``busy``: decision, figures and rounds while another process submits at full rate, and its submits a second,
* ``small_job``: the life of a small job on a free worker, from its submission to its end, with a round wherever it
  waits: in an empty record, and beside 30,000 jobs that wait for a GPU type that is not there.

    python benchmarks/queue_scale.py                                  100,000 jobs, both databases
    python benchmarks/queue_scale.py --jobs 5000 --database sqlite    a small run

``--write`` keeps the figures, and the plans of the statements of a round, in benchmarks/results. The bounds are those
of an idle machine; the program ends with 1 where one is exceeded.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from queue_parts.beside import decide, submits, two_dispatchers
from queue_parts.rows import GIB, WORKERS, block, fill, record
from sqlalchemy import event, select, update

from celora.models import queries
from celora.models.database import Database
from celora.models.jobs import transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.models.workers import register
from celora.services.acceptance import write_job
from celora.services.openai.file_checks import request_missing
from celora.services.queue.line import read_line
from celora.services.queue.listing import entries, heads_of
from celora.services.rounds.dispatch import announce_ended, dispatch, resend
from celora.services.tenants.admission import apply_limits
from celora.settings.settings import Settings, load_settings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
RESULTS = Path(__file__).parent / "results"
DATABASES = ("sqlite", "postgres")
FREE, CALLS = 32, 15
BUSY_S = 10.0
BLOCKED = 30_000
LARGEST = {
    "idle_tick_s": (0.02, 0.02), "decide_s": (0.4, 0.2), "queues_s": (0.05, 0.05), "place_s": (1.0, 1.0),
    "two_dispatchers.twice": (0, 0), "two_dispatchers.decide_s": (0.4, 0.2), "busy.decide_s": (0.4, 0.2),
    "busy.queues_s": (0.05, 0.05), "small_job.longer_s": (5.0, 5.0),
}  # fmt: skip
"""The largest value of each figure, on SQLite and on PostgreSQL."""


def medians(name: str, work: Callable[[], object], calls: int = CALLS) -> dict[str, float]:
    """Measure the median of several calls, after two that warm the caches."""
    work(), work()
    wall, cpu = list[float](), list[float]()
    for _ in range(calls):
        began, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return {f"{name}_s": round(statistics.median(wall), 4), f"{name}_cpu_s": round(statistics.median(cpu), 4)}


def measure(database: Database, settings: Settings) -> dict[str, object]:
    """Measure one record."""

    def round_() -> int:
        return dispatch(database, settings, lambda _: None)

    def tick() -> None:  # as ``celora.tasks.tick``
        round_()
        resend(database, settings, lambda _: None)
        announce_ended(database)
        request_missing(database)

    def queues() -> object:
        return figures_of_queues(database)

    def decided() -> int:
        return decide(database, settings)

    began, used = time.perf_counter(), time.process_time()
    round_()
    found: dict[str, object] = {
        "first_round_s": round(time.perf_counter() - began, 4),
        "first_round_cpu_s": round(time.process_time() - used, 4),
    }
    found |= medians("idle_tick", tick)
    found |= medians("idle_round", round_)
    found |= medians("limits", lambda: apply_limits(database, settings))
    found |= medians("queues", queues)
    found |= medians("place", lambda: place_of_last(database, settings), calls=5)
    free(database)
    found |= medians("decide", decided)
    found["releases"] = decided()
    found["two_dispatchers"] = two_dispatchers(database, settings)
    found["busy"] = while_submitting(database, settings, decided, queues, round_)
    return found


def figures_of_queues(database: Database) -> object:
    """Read the figures of ``celora queues``."""
    with database.session(Scope.everything) as session:
        return queries.queues(session)


def place_of_last(database: Database, settings: Settings) -> object:
    """Read place, expected start and reason of the job that waits last."""
    with database.session(Scope.everything) as session:
        waiting = (Job.status == Status.PENDING, Job.stage == Stage.TRAIN)
        turn = (Job.recovered, Job.priority, Job.created_at.desc())
        last = session.scalars(select(Job.id).where(*waiting).order_by(*turn).limit(1)).one()
        line = read_line(session, settings, heads_of(session, [last]))
        (entry,) = entries(session, line, [last], Scope.everything)
    assert entry.position is not None and entry.latest_at is not None and entry.reason, entry  # noqa: PT018, S101
    return entry


def free(database: Database) -> None:
    """End as many running jobs as slots are to be free."""
    with database.transaction(Scope.everything) as session:
        some = select(Job.id).where(Job.status == Status.RUNNING).order_by(Job.id).limit(FREE)
        ended = update(Job).where(Job.id.in_(list(session.scalars(some)))).values(status=Status.COMPLETED)
        session.connection().execute(ended)


def while_submitting(
    database: Database,
    settings: Settings,
    decided: Callable[[], object],
    queues: Callable[[], object],
    round_: Callable[[], object],
) -> dict[str, float]:
    """Decide, read the figures and run rounds in turn for some seconds while another process submits."""
    taken: dict[str, list[float]] = {"decide": [], "queues": [], "round": []}
    free(database)  # the decision has something to do until the first round
    with submits(database, settings) as ended:
        ends = time.monotonic() + BUSY_S
        while time.monotonic() < ends:
            for name, work in (("decide", decided), ("queues", queues), ("round", round_)):
                began = time.perf_counter()
                work()
                taken[name].append(time.perf_counter() - began)
            time.sleep(0.05)
        submitted = ended()
    found = {f"{name}_s": round(statistics.median(each), 4) for name, each in taken.items()}
    longest_s = round(max(taken["round"]), 4)
    return {**found, "longest_round_s": longest_s, "submits_per_s": round(submitted / BUSY_S, 1)}


def small_jobs(kind: str) -> dict[str, float]:
    """Measure the life of a small job in an empty record, and beside many jobs that cannot run."""
    found = dict[str, float]()
    for name, blocked in (("empty_s", 0), ("beside_blocked_s", BLOCKED)):
        with record(kind) as (database, folder):
            settings = load_settings(running=False, home=folder)
            block(database, blocked)
            lives = list[float]()
            for count in range(4):  # the first one does not count: it warms the caches, and the lanes are judged
                began = time.perf_counter()
                live(database, settings, f"small-{count}")
                lives.append(time.perf_counter() - began)
            found[name] = round(statistics.median(lives[1:]), 4)
    return {**found, "longer_s": round(found["beside_blocked_s"] - found["empty_s"], 4)}


def live(database: Database, settings: Settings, job_id: str) -> None:
    """Carry a job from its submission to its end, as a tick and two workers would, without their messages."""
    worker = {"host": "here", "pid": 1, "slots": 1}
    with database.transaction(Scope.everything) as session:
        register(session, "prep@here", kind="prep", queues=["prep"], **worker)
        register(session, "l4@here", kind="gpu", gpu_type="l4", queues=["gpu.l4"], memory_bytes=24 * GIB, **worker)
    fields = {"base_model": "meta/llama-8b", "dataset": "/data/rows.jsonl", "tenant": "small"}
    with database.transaction(Scope.everything) as session:
        write_job(session, settings, job_id, parse_spec(fields), None)
    for stage in Stage:
        if stage in (Stage.PREPARE, Stage.TRAIN):
            while not dispatch(database, settings, lambda _: None):
                pass
        name = "l4@here" if stage.on_gpu else "prep@here"
        with database.transaction(Scope.everything) as session:
            assert transitions.claim(session, job_id, 1, stage, worker_id=name, lease_s=90)  # noqa: S101
        with database.transaction(Scope.everything) as session:
            assert transitions.advance(session, Claim(job_id, 1, name), stage, {})  # noqa: S101


def write_plans(kind: str, database: Database, settings: Settings) -> None:
    """Write the plan of each statement of a round, and of the figures, that reads jobs, holds or tenants."""
    seen: dict[str, Any] = {}

    def note(_connection: object, _cursor: object, words: str, values: Any, *_: object) -> None:
        if re.search(r"FROM (job|hold|tenant)\b", words) and words.startswith(("SELECT", "WITH")):
            seen.setdefault(words, values)

    event.listen(database.engine, "before_cursor_execute", note)
    apply_limits(database, settings)
    decide(database, settings)
    figures_of_queues(database)
    event.remove(database.engine, "before_cursor_execute", note)
    postgres = kind == "postgres"
    explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " if postgres else "EXPLAIN QUERY PLAN "
    parts: list[str] = []
    with database.engine.connect() as connection:
        for words, values in seen.items():
            lines = connection.exec_driver_sql(explain + words, values).all()
            plan = "\n".join(f"    {line[-1] if not postgres else line[0]}" for line in lines)
            parts.append(f"{' '.join(words.split())}\n{plan}\n")
    (RESULTS / f"queue_scale_plans_{kind}.txt").write_text("\n".join(parts))


def exceeded(found: Mapping[str, Any]) -> list[str]:
    """Return the figures that exceed a bound, with both numbers."""
    over = list[str]()
    for position, kind in enumerate(DATABASES):
        figures = found.get(kind)
        if figures is None:
            continue
        for name, largest in LARGEST.items():
            value: Any = figures
            for part in name.split("."):
                value = value[part]
            if value > largest[position]:
                over.append(f"{kind} {name}: {value} > {largest[position]}")
        if figures["two_dispatchers"]["sent"] != FREE:
            over.append(f"{kind} two_dispatchers.sent: {figures['two_dispatchers']['sent']}, not {FREE}")
    return over


def main() -> None:
    """Print the figures and the bounds, and keep them if asked; exit with 1 where a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, help="waiting jobs")
    parser.add_argument("--database", choices=DATABASES, action="append", help="one of them; both unless given")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    given = parser.parse_args()
    began = time.monotonic()
    found: dict[str, Any] = {
        "waiting": given.jobs, "workers": WORKERS, "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    for kind in given.database or DATABASES:
        with record(kind) as (database, folder):
            settings = load_settings(running=False, home=folder)
            fill(database, given.jobs)
            print(f"{kind}: the rows are made, {time.monotonic() - began:.0f} s", file=sys.stderr)
            found[kind] = measure(database, settings)
            if given.write:
                free(database)
                write_plans(kind, database, settings)
        found[kind]["small_job"] = small_jobs(kind)
        print(f"{kind}: measured, {time.monotonic() - began:.0f} s", file=sys.stderr)
    found |= {"largest": dict(LARGEST), "over": exceeded(found), "took_s": round(time.monotonic() - began)}
    print(json.dumps(found, indent=1))
    if given.write:
        (RESULTS / "queue_scale.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if found["over"] else 0)


if __name__ == "__main__":
    main()
