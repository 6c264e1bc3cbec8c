"""Makes the rows of a large queue: the database copies jobs that this program writes, some 100,000 in seconds.

Twenty tenants; waiting jobs of four GPU types and ``auto``, a tenth of them not prepared yet; as many ended jobs; JSON
of the size that real jobs have; the hold of each waiting job; and a running job for each worker.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Table, delete, insert, text

from celora.models.database import Database
from celora.models.engine import on_sqlite
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Hold, Job, Tenant, Worker
from celora.models.tenants.use import month_of

TENANTS, WORKERS = 20, 500
GIB = 2**30
MEMORY = {"a100-80": 80 * GIB, "h100": 80 * GIB, "l4": 24 * GIB, "t4": 16 * GIB}
GPUS = (*MEMORY, "auto")
START = datetime(2026, 11, 1, tzinfo=UTC)
COPY = """
INSERT INTO {table} ({columns})
WITH RECURSIVE n(g) AS (SELECT 0 UNION ALL SELECT g + 1 FROM n WHERE g + 1 < :jobs)
SELECT {values} FROM {table} t, n WHERE t.{key} = '{template}'
"""
LATER = {"sqlite": "strftime('%Y-%m-%d %H:%M:%f', t.created_at, g || ' seconds') || '000'",
         "postgresql": "t.created_at + g * interval '1 second'"}  # fmt: skip
"""The time of a copy: each is a second younger than the one before."""
NUMBERED = {
    "tenant": "'team-' || substr(CAST(100 + g % 20 AS VARCHAR(3)), 2)",
    "gpu": "CASE g / 20 % 5 WHEN 0 THEN 'a100-80' WHEN 1 THEN 'h100' WHEN 2 THEN 'l4' WHEN 3 THEN 't4' ELSE 'auto' END",
    "priority": "g % 7 - 3",
    "memory_bytes": "CAST(4 + g % 60 AS BIGINT) * 1073741824",
}
"""Columns of a copied job that depend on its number ``g``."""
EXPECTED = """replace('{"a100-80": S, "h100": S, "l4": S, "t4": S}', 'S', CAST(600 + g % 1000 AS VARCHAR(4)))"""
AS_JSON = {"sqlite": EXPECTED, "postgresql": f"CAST({EXPECTED} AS JSON)"}
WAITING = {"stage": "CASE WHEN g % 10 = 0 THEN 'prepare' ELSE 'train' END"}


def fill(database: Database, jobs: int) -> None:
    """Write tenants, workers, so many waiting jobs with their holds and as many ended ones, and the running jobs."""
    with database.transaction(Scope.everything) as session:
        connection, at = session.connection(), database.now(session)
        connection.execute(insert(Tenant), [{"name": f"team-{n:02d}", "created_at": START} for n in range(TENANTS)])
        connection.execute(insert(Worker), [_worker(n, at) for n in range(WORKERS)])
        copy_jobs(connection, jobs, Status.COMPLETED, NUMBERED, at)
        copy_jobs(connection, jobs, Status.PENDING, NUMBERED | WAITING, at)
        held = [{**_job(f"running-{n:07d}", Status.RUNNING, n), **_held(n, at)} for n in range(WORKERS)]
        connection.execute(insert(Job), held)
    analyze(database)


def block(database: Database, jobs: int) -> None:
    """Write so many jobs of a large tenant that wait for a GPU type without a worker, and a small tenant."""
    with database.transaction(Scope.everything) as session:
        connection, at = session.connection(), database.now(session)
        connection.execute(
            insert(Tenant), [{"name": name, "created_at": START} for name in ("large", "small", "team-00")]
        )
        if jobs:
            copy_jobs(connection, jobs, Status.PENDING, {"tenant": "'large'", "gpu": "'b200'"}, at)
    analyze(database)


def analyze(database: Database) -> None:
    """Let the planner count the rows, as a database in use does by itself."""
    with database.engine.connect() as connection:
        words = "ANALYZE" if on_sqlite(connection) else "VACUUM ANALYZE"
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(words))


def copy_jobs(connection: Connection, jobs: int, status: Status, changed: Mapping[str, str], at: datetime) -> None:
    """Copy a job of that status so often, with its hold if it waits; the copies alone stay.

    Args:
        connection: A connection in a transaction.
        jobs: The number of copies.
        status: The status of the jobs.
        changed: SQL of the columns that differ.
        at: The time of the holds.
    """
    template, dialect = f"template-{status}", connection.dialect.name
    job_id = f"'{status}-' || substr(CAST(10000000 + g AS VARCHAR(8)), 2)"
    connection.execute(insert(Job), [_job(template, status, 0)])
    times = {"created_at": LATER[dialect], "updated_at": LATER[dialect]}
    given = {"id": job_id, "expected_s": AS_JSON[dialect], **times, **changed}
    _copy(connection, Job.__table__, "id", template, given, jobs=jobs)
    if status is Status.PENDING:
        connection.execute(insert(Hold), [_hold(template, at)])
        _copy(connection, Hold.__table__, "job_id", template, {"job_id": job_id}, jobs=jobs)
    connection.execute(delete(Job).where(Job.id == template))


def _copy(
    connection: Connection, table: Table, key: str, template: str, changed: Mapping[str, str], *, jobs: int
) -> None:
    names = [column.name for column in table.columns]
    words = COPY.format(
        table=table.name, key=key, template=template, columns=", ".join(f'"{name}"' for name in names),
        values=", ".join(changed.get(name, f't."{name}"') for name in names),
    )  # fmt: skip
    connection.execute(text(words), {"jobs": jobs})


def _job(job_id: str, status: Status, number: int) -> dict[str, object]:
    """Make the row of a job; the JSON columns have the size of a real job's."""
    spec = parse_spec({"base_model": "meta/llama-8b", "dataset": "/data/rows.jsonl"}).model_dump(mode="json")
    return {
        "id": job_id,
        "tenant": f"team-{number % TENANTS:02d}",
        "status": status,
        "stage": Stage.TRAIN,
        "gpu": GPUS[number // TENANTS % len(GPUS)],
        "created_at": START,
        "updated_at": START,
        "spec": spec,
        "prepared": {"histogram": list(range(200)), "rows": number, "samples": ["x" * 400] * 4},
        "memory_bytes": (4 + number % 60) * GIB,
        "expected_s": dict.fromkeys(MEMORY, 600.0 + number % 1_000),
        "warnings": [],
        "expires_at": None,
    }


def _worker(number: int, at: datetime) -> dict[str, object]:
    kind, later = list(MEMORY)[number % len(MEMORY)], at + timedelta(days=1)
    return {
        "id": f"{kind}-{number}@host-{number // 8}", "host": f"host-{number // 8}", "kind": "gpu", "gpu_type": kind,
        "memory_bytes": MEMORY[kind], "slots": 1, "pid": number, "versions": {"torch": "2.9", "celora": "1"},
        "queues": [f"gpu.{kind}"], "status": "online", "registered_at": at, "last_seen_at": later,
    }  # fmt: skip


def _held(number: int, at: datetime) -> dict[str, object]:
    kind = list(MEMORY)[number % len(MEMORY)]
    return {
        "gpu_type": kind, "queue": f"gpu.{kind}", "worker_id": f"{kind}-{number}@host-{number // 8}",
        "claimed_at": at, "lease_until": at + timedelta(days=1), "started_at": at,
    }  # fmt: skip


def _hold(job_id: str, at: datetime) -> dict[str, object]:
    return {
        "job_id": job_id, "month": month_of(at), "basis": "receipt", "wanted_ms": 600_000, "wanted_micros": 0,
        "held_ms": 600_000, "asks": False, "updated_at": at,
    }  # fmt: skip


@contextmanager
def record(kind: str) -> Iterator[tuple[Database, Path]]:
    """Make an empty record, ``sqlite`` or ``postgres``, in a folder of its own."""
    from chaos.servers import Postgres  # noqa: PLC0415  (a part of the tests)

    with tempfile.TemporaryDirectory(prefix="celora-queue-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL, which is not root, has its folder in it
        if kind == "sqlite":
            yield from _opened(f"sqlite:///{folder / 'celora.db'}", folder)
            return
        with Postgres(folder / "postgres", options={"jit": "off"}) as server:
            yield from _opened(server.url.format("postgres"), folder)


def _opened(url: str, folder: Path) -> Iterator[tuple[Database, Path]]:
    database = Database(url)
    database.migrate()
    try:
        yield database, folder
    finally:
        database.dispose()
