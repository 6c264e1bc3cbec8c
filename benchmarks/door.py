"""Measures the HTTP API: reads of a large record, creations, streams of events, uploads.

The API is the command ``celora api`` on a PostgreSQL and a broker of its own, asked over the loopback by keys of
twenty tenants. Its parts:

* ``reads``: one request at a time, p50 and p99 in milliseconds. The rows are those of ``benchmarks/tenants.py``, with
  the files, requests and checkpoints of jobs that came over HTTP. ``--write`` keeps the plans of all statements.
* ``creates``: eight clients create jobs, in turn with eight threads that call ``services.jobs.submit``: p99, rate, and
  their ratios, which is all that a loaded machine can tell. Then the broker is stopped: the longest creation, and the
  number of accepted jobs that the record has not.
* ``streams``: reads of one job beside 200 streams of events, some of which get news all the time.
* ``upload``: one large file: the API's memory above its rest, the bytes that it wrote, its rate beside that of a bare
  application that reads, hashes and drops the same stream, in turn. The bytes that a client had sent when a wrong key
  and a length over the limit were answered.

    python benchmarks/door.py                                  1,000,000 jobs, 512 MiB
    python benchmarks/door.py --jobs 20000 --mib 64 --calls 20  a small run
    python benchmarks/door.py --only reads                     one part

``--write`` keeps the figures and the plans in benchmarks/results. The program prints each figure beside its bound
(``door_parts.bounds``) and ends with 1 where one is exceeded; the bounds in milliseconds hold for an idle machine.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import tenants
from door_parts.bounds import judge
from door_parts.served import Door, opened, percentiles
from door_parts.streams import measure_streams
from door_parts.uploads import measure_upload
from sqlalchemy import event, select

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile

sys.path.append(str(Path(__file__).parents[1] / "tests"))
RESULTS = Path(__file__).parent / "results"
PARTS = ("reads", "creates", "streams", "upload")
BASE = "smollm2-135m-instruct"
CLIENTS, WARM = 8, 10

Address = Callable[[random.Random, str], str]
"""Makes the path of a request of a tenant."""


def reads(jobs: int) -> dict[str, tuple[int, Address]]:
    """Return the reads: the status that is expected, and a maker of the path for a tenant."""
    deep = jobs // tenants.TENANTS // 2 * tenants.TENANTS

    def job(chance: random.Random, tenant: str) -> str:
        return tenants.some_job(chance, jobs, tenant)

    openai, own, long = "/v1/fine_tuning/jobs", "/v1/celora/jobs", tenants.LONG
    label = f"{openai}?metadata[run]="
    deep_event = f"{openai}/{long}/events?after=ftevent-m1."
    return {
        "list": (200, lambda *_: openai),
        "list_deep": (200, lambda _, tenant: f"{openai}?after={tenants.job_at(deep, tenant)}"),
        "list_status": (200, lambda *_: f"{own}?status=failed"),
        "list_label": (200, lambda chance, _: f"{label}run-{chance.randrange(tenants.LABELS)}"),
        "list_label_miss": (200, lambda *_: f"{label}nothing"),
        "retrieve": (200, lambda chance, tenant: f"{openai}/{job(chance, tenant)}"),
        "miss": (404, lambda chance, _: f"{openai}/ftjob-{chance.random()}"),
        "events": (200, lambda chance, tenant: f"{openai}/{job(chance, tenant)}/events"),
        "events_long": (200, lambda *_: f"{openai}/{long}/events"),
        "events_long_deep": (200, lambda chance, _: f"{deep_event}{chance.randint(9, tenants.POINTS - 9)}"),
        "checkpoints_long": (200, lambda *_: f"{openai}/{long}/checkpoints"),
        "files": (200, lambda *_: "/v1/files?limit=20"),
        "models": (200, lambda *_: "/v1/models"),
        "summary_long": (200, lambda *_: f"{own}/{long}"),
        "series_long": (200, lambda *_: f"{own}/{long}/metrics?name=train_loss&points=500"),
    }


def measure_reads(door: Door, jobs: int, calls: int) -> dict[str, Any]:
    """Measure each read by a key of a tenant; the first calls warm the caches."""
    found = dict[str, dict[str, float]]()
    for name, (status, path_of) in reads(jobs).items():
        chance, taken = random.Random(7), list[float]()  # noqa: S311  (no secret)
        for number in range(calls + WARM):
            tenant = "team-00" if name.endswith(("long", "long_deep")) else tenants.some_tenant(chance)
            path = path_of(chance, tenant)
            began = time.perf_counter()
            answered, told = door.ask("GET", path, tenant)
            if answered != status:
                raise AssertionError(f"{path}: {answered} {told[:300]!r}")
            if number >= WARM:
                taken.append((time.perf_counter() - began) * 1000)
        found[name] = percentiles(taken)
    return {"reads_ms": found}


def write_plans(door: Door, jobs: int) -> None:
    """Make each read once in this process, and write the plans of its statements."""
    from fastapi.testclient import TestClient  # noqa: PLC0415

    from celora.api.app import create_app  # noqa: PLC0415

    engine, parts = get_database().engine, [f"{jobs:,} jobs\n"]
    with TestClient(create_app(), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        for name, (_, path_of) in reads(jobs).items():
            seen = dict[str, Any]()

            def note(_one: object, _cursor: object, words: str, values: Any, *_: object, seen: Any = seen) -> None:
                if words.startswith(("SELECT", "WITH")):
                    seen.setdefault(words, values)

            event.listen(engine, "before_cursor_execute", note)
            tenant = "team-00" if "long" in name else "team-03"
            headers = {"authorization": f"Bearer {door.keys[tenant]}"}
            client.get(path_of(random.Random(7), tenant), headers=headers)  # noqa: S311  (no secret)
            event.remove(engine, "before_cursor_execute", note)
            with engine.connect() as connection:
                for words, values in seen.items():
                    explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {words}", values)
                    plan = "\n".join(f"    {line[0]}" for line in explained)
                    parts.append(f"{name}: {' '.join(words.split())[:2000]}\n{plan}\n")
    (RESULTS / "door_plans_postgres.txt").write_text("\n".join(parts))


def measure_creates(door: Door, creates: int) -> dict[str, Any]:
    """Create jobs through the API and by the service in turn, then with the broker stopped."""
    from celora.services import jobs as job_service  # noqa: PLC0415  (Celery reads the broker's URL when it is imported)

    file_id, uri = stored_file("team-01")
    numbers, rounds = count(), list[tuple[list[float], float, list[float], float]]()
    accepted: list[str] = []

    def by_client() -> float:
        fields = {"model": BASE, "training_file": file_id, "seed": next(numbers)}
        began = time.perf_counter()
        status, told = door.ask("POST", "/v1/fine_tuning/jobs", "team-01", json.dumps(fields).encode())
        taken = time.perf_counter() - began
        if status != 200:  # noqa: PLR2004
            raise AssertionError(told)
        accepted.append(json.loads(told)["id"])
        return taken

    def by_service() -> float:
        fields = {"base_model": BASE, "dataset": uri, "tenant": "team-01", "seed": next(numbers)}
        began = time.perf_counter()
        job_service.submit(fields)
        return time.perf_counter() - began

    at_once(by_client, CLIENTS), at_once(by_service, CLIENTS)
    for _ in range(3):
        rounds.append((*at_once(by_client, creates), *at_once(by_service, creates)))
    ours, theirs = [percentiles([1000 * s for one in rounds for s in one[part]]) for part in (0, 2)]
    rates = [statistics.median(one[part] for one in rounds) for part in (1, 3)]
    door.broker.kill()
    away, _ = at_once(by_client, creates // 4)
    with get_database().session(Scope.of("team-01")) as session:
        known = set(session.scalars(select(Job.id).where(Job.id.in_(accepted))))
    return {
        "creates_ms": ours,
        "submits_ms": theirs,
        "creates_per_s": round(rates[0], 1),
        "submits_per_s": round(rates[1], 1),
        "p99_ratio": round(ours["p99"] / theirs["p99"], 2),
        "rate_share": round(rates[0] / rates[1], 2),
        "longest_without_broker_s": round(max(away), 3),
        "lost": len(set(accepted) - known),
    }


def at_once(work: Callable[[], float], calls: int) -> tuple[list[float], float]:
    """Do some work by as many threads as there are clients; return the seconds of each call, and calls a second."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()
        taken = list(pool.map(lambda _: work(), range(calls)))
        return taken, calls / (time.perf_counter() - began)


def stored_file(tenant: str) -> tuple[str, str]:
    """Store a file of a tenant; return its id and its place."""
    from celora.services.openai import files  # noqa: PLC0415  (Celery reads the broker's URL when it is imported)

    with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
        incoming.write(b'{"prompt": "one", "completion": "1"}\n')
        stored = incoming.commit(".jsonl")
    made = files.create(tenant, stored, get_settings(), filename="rows.jsonl")
    return made.id, made.uri


def main() -> None:
    """Print the figures, and keep them if asked; exit with 1 where a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs of the record")
    parser.add_argument("--mib", type=int, default=512, help="size of the upload")
    parser.add_argument("--creates", type=int, default=400, help="creations of a round")
    parser.add_argument("--calls", type=int, default=200, help="requests of each read")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; all unless given")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    given = parser.parse_args()
    parts, began = given.only or PARTS, time.perf_counter()

    def say(done: str) -> None:
        print(f"{time.perf_counter() - began:5.0f} s: {done}", file=sys.stderr)

    found: dict[str, Any] = {"jobs": given.jobs, "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory(prefix="celora-door-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL, which is not root, has its folder in it
        with opened(given.jobs, Path(folder)) as door:
            say("the record is made")
            if "reads" in parts:
                found |= measure_reads(door, given.jobs, given.calls)
                if given.write:
                    write_plans(door, given.jobs)
                say("reads are measured")
            if "streams" in parts:
                found["streams"] = measure_streams(door, given.jobs, given.calls)
                say("streams are measured")
            if "upload" in parts:
                found["upload"] = measure_upload(door, given.mib)
                say("uploads are measured")
            if "creates" in parts:  # last: it stops the broker
                found["creates"] = measure_creates(door, given.creates)
                say("creations are measured")
    judged = judge(found)
    found |= {"took_s": round(time.perf_counter() - began), "over": [one.name for one in judged if one.is_exceeded]}
    print(json.dumps(found, indent=1))
    print(*judged, sep="\n")
    if given.write:
        (RESULTS / "door.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if found["over"] else 0)


if __name__ == "__main__":
    main()
