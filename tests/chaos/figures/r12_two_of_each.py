"""R12: two beats, two control workers (so two ticks and two reapers at once), and clocks an hour apart.

libfaketime moves the wall clock of single processes; their monotonic clocks and the database's stay as they are.
"""

import re
import time
from importlib.util import find_spec
from pathlib import Path

from chaos.cluster import Cluster
from chaos.figure import figure
from chaos.oracle import faults
from chaos.servers import Postgres, Valkey

ROUNDS, JOBS = 200, 30


@figure(
    "R12",
    "Two of each, and clocks that are wrong",
    f"2 beats, 2 control workers, clocks +1 h and -1 h, {ROUNDS} scheduling rounds, {JOBS} jobs: 0 early reaps, every "
    "stage sent and started once, 0 announcements doubled",
)
def two_of_each(bench):
    # A lease that a busy machine can keep: an hour's difference would end any.
    settings = {"CELORA_TICK_S": "0.5", "CELORA_REAPER_S": "0.5", "CELORA_CLAIM_S": "60", "CELORA_LEASE_S": "20"}
    with (
        Valkey(bench.folder / "valkey") as valkey,
        Postgres(bench.folder / "postgres") as postgres,
        Cluster(
            bench.folder / "home", broker_url=valkey.url, database_url=postgres.create("record"), settings=settings
        ) as cluster,
    ):
        cluster.start_worker("control", "control", clock("-1h"))
        cluster.start_worker("beat", "beat", clock("-1h"))
        cluster.start_worker("control", "control-two", clock("+1h"))
        cluster.start_worker("beat", "beat-two", clock("+1h"))
        cluster.start_worker("prep", "prep", clock("+1h"))
        cluster.start_worker("gpu", "cpu-0", clock("+1h"))
        cluster.start_worker("gpu", "cpu-1", clock("-1h"))
        cluster.start_worker("gpu", "cpu-2")
        cluster.wait_registered()
        began, ids = time.monotonic(), []
        while rounds(cluster, "tick") < ROUNDS or len(ids) < JOBS:
            if len(ids) < JOBS:
                ids += cluster.submit(3, steps=100)
            time.sleep(0.5)
        cluster.wait_final(ids, 180)
        bench.say(
            f"{rounds(cluster, 'tick')} ticks, {rounds(cluster, 'reap')} reaps in {time.monotonic() - began:.0f} s"
        )
        missed = faults(cluster, ids)
        histories = [cluster.events(job_id) for job_id in ids]
        reaped = sum(event["kind"] == "worker_lost" for events in histories for event in events)
        doubled = sum(twice(events) for events in histories)
        told = [row["attempts"] for job_id in ids for row in cluster.announcements(job_id)]
        missed += [f"{reaped} jobs were reaped though their workers lived"] if reaped else []
        missed += [f"{doubled} stages were sent or started twice"] if doubled else []
        missed += [f"{sum(told) - len(told)} announcements were made twice"] if sum(told) != len(told) else []
        return {
            "ticks": rounds(cluster, "tick"),
            "reaps": rounds(cluster, "reap"),
            "jobs": len(ids),
            "early_reaps": reaped,
            "doubled_stages": doubled,
            "doubled_announcements": sum(told) - len(told),
        }, missed


def clock(offset):
    """The environment of a process whose wall clock is off by so much."""
    found = find_spec("libfaketime")
    if found is None:
        raise RuntimeError("libfaketime is not installed; run `pip install -e .[dev]`")
    library = Path(found.submodule_search_locations[0]) / "vendor/libfaketime/src/libfaketime.so.1"
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}


def rounds(cluster, name):
    """How often a control worker ran a task."""
    logs = [(cluster.home / "logs" / f"{worker}.log").read_text() for worker in ("control", "control-two")]
    return sum(len(re.findall(rf"Task celora\.{name}\[[^]]+\] succeeded", log)) for log in logs)


def twice(events):
    """Stages that were sent or started more than once."""
    stages = [
        (event["kind"], event["data"]["stage"]) for event in events if event["kind"] in ("queued", "stage_started")
    ]
    return len(stages) - len(set(stages))
