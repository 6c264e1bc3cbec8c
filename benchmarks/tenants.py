"""Measures the reads of tenants on a PostgreSQL of a million jobs, and the cost of their scope.

The rows are made by the database itself: one job is written by celora and copied by `generate_series`, for twenty
tenants, with a label on each tenth. One job has 20,000 events and 100,000 measurements. Each read is made by its own
function and counted in milliseconds, p50 and p99 of so many calls:

* ``list``: a page of 20 jobs of a tenant; with a status; over all tenants, as an operator reads; by a label that some
  jobs have and by one that none has; each also from a cursor deep in the list,
* ``job``, ``miss``: one job, and an id that nobody has, by a program and by a person who types its beginning,
* ``long``: the page of the job with many events, its newest events, and its curve reduced to 500 points,
* ``scope``: the p50 of a tenant's list and of one job in the tenant's session, minus that in a session of everything,
  as wall time and as CPU time of this process. The sessions take turns, so that both meet the same machine.

    python benchmarks/tenants.py                 1,000,000 jobs
    python benchmarks/tenants.py --jobs 20000    a small run

``--write`` keeps the figures, and the plans of all statements, in benchmarks/results. The bounds hold for an idle
machine and 1,000,000 jobs; the program ends with 1 where one is exceeded.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from celora.errors import NotFoundError
from celora.models import queries
from celora.models.database import Database
from celora.models.jobs import accept
from celora.models.openai import job_requests
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Status
from celora.models.tables import Job
from celora.services.tenants.job_views import job_events

sys.path.append(str(Path(__file__).parents[1] / "tests"))
RESULTS = Path(__file__).parent / "results"
TENANTS, LABELLED, LABELS, CALLS, WARM = 20, 10, 1_000, 200, 10
EVENTS, POINTS, SHOWN_POINTS = 20_000, 100_000, 500
TEMPLATE, LONG = "template", "long"
BOUNDS_MS = {
    "list_tenant": 50, "list_tenant_deep": 50, "list_status": 50, "list_all": 50, "list_all_deep": 50, "list_label": 50,
    "list_label_miss": 50, "job": 20, "miss": 20, "miss_by_beginning": 20, "long_page": 100, "long_events": 100,
    "long_series": 200,
}  # fmt: skip
"""The largest p99 of each read, milliseconds."""
SCOPE_MS = 1.0
"""The largest cost of the scope, p50, milliseconds."""

TENANT_ROWS = """
INSERT INTO tenant (name, created_at)
SELECT 'team-' || lpad(g::text, 2, '0'), now() FROM generate_series(0, :tenants - 1) g ON CONFLICT DO NOTHING
"""
JOB_ROWS = "INSERT INTO job (%s) SELECT %s FROM job t, generate_series(1, :jobs) g WHERE t.id = 'template'"
LABEL_ROWS = """
INSERT INTO job_label (job_id, key, value, tenant, created_at)
SELECT id, 'run', 'run-' || (substr(id, 5)::int % :labels), tenant, created_at
FROM job WHERE id LIKE 'job-%' AND substr(id, 5)::int % :each = 0
"""
EVENT_ROWS = """
INSERT INTO event (job_id, attempt, at, level, kind, message, data)
SELECT 'long', 1, now() - (:events - g) * interval '5 seconds', 'info',
  CASE WHEN g = 5 THEN 'training_started' WHEN g % 1000 = 0 THEN 'stage_finished' ELSE 'eval' END,
  'step ' || g || ': eval loss 1.2345', json_build_object('stage', 'train', 'seconds', 1.5)
FROM generate_series(1, :events) g
"""
POINT_ROWS = """
INSERT INTO metric_point (job_id, attempt, step, at, train_loss, eval_loss, learning_rate, grad_norm)
SELECT 'long', 1, g, now() - (:points - g) * interval '1 second', 1.0 / g, CASE WHEN g % 5 = 0 THEN 1.5 / g END, 0.0002,
  1.0
FROM generate_series(1, :points) g
"""

Read = Callable[[Session, random.Random], object]


def fill(database: Database, jobs: int) -> None:
    """Make the rows: a job that celora writes, its copies, their labels, and a job with a long history."""
    with database.transaction(Scope.everything) as session:
        for job_id, tenant in ((TEMPLATE, "team-00"), (LONG, "team-00")):
            spec = {"base_model": "meta/llama-8b", "dataset": "/data/rows.jsonl", "tenant": tenant}
            accept.submit(session, job_id=job_id, spec=parse_spec(spec))
        job = session.get_one(Job, TEMPLATE)
        job.prepared = {"histogram": list(range(200)), "samples": ["x" * 400] * 4}
        job.metrics = {"tuned": {"eval_loss": 1.0}}
        session.get_one(Job, LONG).prepared_uri = "file:///prepared"
    changed = {
        "id": "'job-' || lpad(g::text, 9, '0')",
        "tenant": "'team-' || lpad((g % :tenants)::text, 2, '0')",
        "status": "(ARRAY['completed','completed','completed','failed','cancelled','pending'])[1 + g % 6]",
        "created_at": "t.created_at - (g || ' seconds')::interval",
        "expires_at": "NULL",
    }
    names = [column.name for column in Job.__table__.columns]
    values = ", ".join(changed.get(name, f't."{name}"') for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    numbers = {"jobs": jobs, "tenants": TENANTS, "labels": LABELS, "each": LABELLED, "events": EVENTS, "points": POINTS}
    with database.engine.begin() as connection, without_indexes(connection, "job", "job_label"):
        for statement in (TENANT_ROWS, JOB_ROWS % (columns, values), LABEL_ROWS, EVENT_ROWS, POINT_ROWS):
            connection.execute(text(statement), {name: n for name, n in numbers.items() if f":{name}" in statement})
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


@contextmanager
def without_indexes(connection: Connection, *tables: str) -> Iterator[None]:
    """Make rows of tables without their secondary indexes, which are made afterwards, and without checks of keys."""
    wanted = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(:tables) AND starts_with(indexname, 'ix_')"
    )
    indexes = connection.execute(text(wanted), {"tables": list(tables)}).all()
    for name, _ in indexes:
        connection.exec_driver_sql(f'DROP INDEX "{name}"')
    connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
    connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
    yield
    for _, definition in indexes:
        connection.exec_driver_sql(definition)


def some_tenant(chance: random.Random) -> str:
    """Choose a tenant."""
    return f"team-{chance.randrange(TENANTS):02d}"


def job_at(place: int, tenant: str) -> str:
    """Return the id of a tenant's job at a place of the list of all jobs."""
    return f"job-{place + int(tenant[5:]):09d}"


def some_job(chance: random.Random, jobs: int, tenant: str) -> str:
    """Choose a job of a tenant."""
    first, places = int(tenant[5:]) or TENANTS, jobs // TENANTS
    return f"job-{first + TENANTS * chance.randrange(places):09d}"


def refused(read: Callable[[], object]) -> None:
    """Make a read that must find nothing."""
    try:
        read()
    except NotFoundError:
        return
    raise AssertionError("something was found")


def reads(jobs: int) -> dict[str, tuple[bool, Read]]:
    """Return each read, and whether the tenant's own session makes it."""

    def listed(session: Session, tenant: str | None, **how: Any) -> object:
        return queries.list_jobs(session, tenant=tenant, limit=20, **how)

    def labelled(session: Session, tenant: str, value: str) -> object:
        return job_requests.page(session, tenant, after=None, limit=20, labels={"run": value})

    deep = jobs // TENANTS // 2 * TENANTS
    return {
        "list_tenant": (True, lambda session, _: listed(session, tenant_of(session))),
        "list_tenant_deep": (
            True,
            lambda session, _: listed(
                session, tenant_of(session), after=f"job-{deep + int(tenant_of(session)[5:]):09d}"
            ),
        ),
        "list_status": (True, lambda session, _: listed(session, tenant_of(session), status=Status.FAILED)),
        "list_all": (False, lambda session, _: listed(session, None)),
        "list_all_deep": (False, lambda session, _: listed(session, None, after=f"job-{deep:09d}")),
        "list_label": (
            True,
            lambda session, chance: labelled(session, tenant_of(session), f"run-{chance.randrange(LABELS)}"),
        ),
        "list_label_miss": (True, lambda session, _: labelled(session, tenant_of(session), "nothing")),
        "job": (
            True,
            lambda session, chance: queries.job_detail(session, some_job(chance, jobs, tenant_of(session))),
        ),
        "miss": (
            True,
            lambda session, chance: refused(lambda: queries.get_job(session, f"job-{chance.random()}")),
        ),
        "miss_by_beginning": (
            False,
            lambda session, chance: refused(lambda: queries.find(session, f"0{chance.random()}")),
        ),
        "long_page": (False, lambda session, _: queries.job_detail(session, LONG)),
        "long_events": (False, lambda session, _: job_events(session, LONG, after_id=EVENTS // 2)),
        "long_series": (False, lambda session, _: queries.metric_series(session, LONG, most=SHOWN_POINTS)),
    }


def tenant_of(session: Session) -> str:
    """Return the tenant that a measured session is for."""
    return str(session.info["measured"])


def measure(database: Database, read: Read, *, scoped: bool, calls: int = CALLS) -> dict[str, float]:
    """Measure a read in a session of its own each time, as a request makes it; the first calls warm the caches."""
    chance = random.Random(7)  # noqa: S311  (no secret)
    taken = [timed(database, read, chance, scoped=scoped) for _ in range(calls + WARM)][WARM:]
    return percentiles(taken)


def timed(database: Database, read: Read, chance: random.Random, *, scoped: bool) -> tuple[float, float]:
    """Make one read; return its wall time and its CPU time, milliseconds."""
    tenant = some_tenant(chance)
    with database.session(Scope.of(tenant) if scoped else Scope.everything) as session:
        session.info["measured"] = tenant
        began, used = time.perf_counter(), time.process_time()
        read(session, chance)
        return (time.perf_counter() - began) * 1000, (time.process_time() - used) * 1000


def percentiles(taken: list[tuple[float, float]]) -> dict[str, float]:
    """Return p50 and p99 of the wall times, and p50 of the CPU times."""
    wall, cpu = sorted(one for one, _ in taken), sorted(one for _, one in taken)
    middle = len(taken) // 2
    return {
        "p50": round(wall[middle], 2),
        "p99": round(wall[int(len(wall) * 0.99)], 2),
        "cpu_p50": round(cpu[middle], 2),
    }


def scope_costs(database: Database, found: dict[str, tuple[bool, Read]]) -> dict[str, dict[str, float]]:
    """Measure the cost of the scope for a list and for one job; the two kinds of sessions take turns, read by read.

    Other programs disturb ``cpu_p50`` less than ``p50``: the scope costs CPU time of this process alone.
    """
    costs = dict[str, dict[str, float]]()
    for name in ("list_tenant", "job"):
        read, same = found[name][1], random.Random(7)  # noqa: S311  (no secret)
        scoped, plain = list[tuple[float, float]](), list[tuple[float, float]]()
        for number in range(2 * CALLS + WARM):
            seed = same.random()  # both sessions read the same rows; each is the first of the two as often
            for first in (number % 2 == 0, number % 2 != 0):
                taken = timed(database, read, random.Random(seed), scoped=first)  # noqa: S311  (no secret)
                (scoped if first else plain).append(taken)
        with_scope, without = percentiles(scoped[WARM:]), percentiles(plain[WARM:])
        costs[name] = {figure: round(with_scope[figure] - without[figure], 2) for figure in ("p50", "cpu_p50")}
    return costs


def write_plans(database: Database, found: dict[str, tuple[bool, Read]]) -> None:
    """Write the plan of each statement of each read."""
    parts = list[str]()
    for name, (scoped, read) in found.items():
        seen: dict[str, Any] = {}

        def note(_connection: object, _cursor: object, words: str, values: Any, *_: object, seen: Any = seen) -> None:
            if words.startswith(("SELECT", "WITH")):
                seen.setdefault(words, values)

        event.listen(database.engine, "before_cursor_execute", note)
        with database.session(Scope.of("team-03") if scoped else Scope.everything) as session:
            session.info["measured"] = "team-03"
            read(session, random.Random(7))  # noqa: S311  (no secret)
        event.remove(database.engine, "before_cursor_execute", note)
        with database.engine.connect() as connection:
            for words, values in seen.items():
                explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {words}", values)
                plan = "\n".join(f"    {line[0]}" for line in explained)
                parts.append(f"{name}: {' '.join(words.split())[:2000]}\n{plan}\n")
    (RESULTS / "tenants_plans_postgres.txt").write_text("\n".join(parts))


def main() -> None:
    """Print the figures, and keep them if asked; exit with 1 where a bound is exceeded."""
    from chaos.servers import Postgres  # noqa: PLC0415  (a part of the tests)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs of the record")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    given = parser.parse_args()
    jobs: int = given.jobs
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Postgres(folder, options={"jit": "off"}) as server:
        database = Database(server.url.format("postgres"))
        database.migrate()
        began = time.perf_counter()
        fill(database, jobs)
        made_s = round(time.perf_counter() - began, 1)
        print(f"the rows are made, {made_s:.0f} s", file=sys.stderr)
        named = reads(jobs)
        figures = {name: measure(database, read, scoped=scoped) for name, (scoped, read) in named.items()}
        costs = scope_costs(database, named)
        if given.write:
            write_plans(database, named)
        database.dispose()
    over = [f"{name}: p99 {figure['p99']} > {BOUNDS_MS[name]} ms" for name, figure in figures.items()
            if figure["p99"] > BOUNDS_MS[name]]  # fmt: skip
    over += [
        f"scope of {name}: {cost['p50']} > {SCOPE_MS} ms" for name, cost in costs.items() if cost["p50"] > SCOPE_MS
    ]
    found = {"jobs": jobs, "tenants": TENANTS, "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
             "made_s": made_s, "reads_ms": figures, "scope_ms": costs, "largest_p99_ms": BOUNDS_MS,
             "largest_scope_p50_ms": SCOPE_MS, "over": over, "took_s": round(time.monotonic() - started)}  # fmt: skip
    print(json.dumps(found, indent=1))
    if given.write:
        (RESULTS / "tenants.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
