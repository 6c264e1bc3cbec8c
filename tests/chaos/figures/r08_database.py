"""R8: the database crashes and recovers, again and again, a few times for longer than a lease."""

import time
from itertools import pairwise

from chaos.cluster import Cluster
from chaos.figure import figure
from chaos.oracle import faults
from chaos.servers import Postgres, Valkey

CRASHES = 20
LONG = 4
"""How many of them last longer than a lease (4 s here)."""
STEP_GAP_S = 2.0
JOBS = 3


@figure(
    "R8",
    "The database may crash; training does not stop",
    f"{CRASHES} times -m immediate, every 5 to 15 s, {LONG} of them longer than a lease: 0 lost, 0 doubled, 0 jobs "
    f"reaped, no trainer stands still for {STEP_GAP_S} s, every checkpoint in the record",
)
def database(bench):
    long_ones = set(bench.dice.sample(range(CRASHES), LONG))
    with (
        Valkey(bench.folder / "valkey") as valkey,
        Postgres(bench.folder / "postgres") as postgres,
        Cluster(bench.folder / "home", broker_url=valkey.url, database_url=postgres.create("record")) as cluster,
    ):
        cluster.start(3)
        ids = []
        for number in range(CRASHES):
            top_up(cluster, ids)
            time.sleep(bench.dice.uniform(5, 15))
            away_s = bench.dice.uniform(6, 9) if number in long_ones else bench.dice.uniform(0, 2)
            postgres.restart(away_s=away_s)
            bench.say(f"crash {number + 1}/{CRASHES}: away for {away_s:.1f} s and its recovery")
        cluster.wait_final(ids, 300)
        missed = faults(cluster, ids)
        reaped = sum(event["kind"] == "worker_lost" for job_id in ids for event in cluster.events(job_id))
        gap = max(standstill(cluster, job_id) for job_id in ids)
        unrecorded = [job_id for job_id in ids if checkpoints_missing(cluster, job_id)]
        missed += [f"{reaped} jobs were taken from workers that lived"] if reaped else []
        missed += [f"a trainer stood still for {gap:.1f} s"] if gap > STEP_GAP_S else []
        missed += [f"{len(unrecorded)} jobs have checkpoints that the record does not know"] if unrecorded else []
        return {
            "crashes": CRASHES,
            "jobs": len(ids),
            "reaped": reaped,
            "longest_standstill_s": round(gap, 2),
            "jobs_with_unrecorded_checkpoints": len(unrecorded),
        }, missed


def top_up(cluster, ids):
    """Keep every worker in training, and some jobs waiting."""
    left = sum(job["status"] in ("pending", "queued", "running") for job in cluster.jobs(ids))
    if left < 2 * JOBS:
        ids += cluster.submit(2 * JOBS - left, steps=600)


def standstill(cluster, job_id):
    """The longest pause between two steps of one attempt."""
    times = [[at for _, at in log] for log in cluster.steps(job_id).values()]
    return max((later - earlier for attempt in times for earlier, later in pairwise(attempt)), default=0.0)


def checkpoints_missing(cluster, job_id):
    """Steps that had to be saved and are not in the record."""
    job = cluster.job(job_id)
    every, last = job["spec"]["save_steps"], job["spec"]["max_steps"]
    return set(range(every, last, every)) - {row["step"] for row in cluster.checkpoints(job_id)}
