"""R6: the broker is killed with all its data, emptied, frozen and cut off, again and again, while jobs run and wait."""

import time

from chaos.cluster import Cluster
from chaos.figure import figure
from chaos.oracle import faults
from chaos.servers import Valkey

KILLS, FLUSHES, FREEZES, CUTS = 20, 5, 3, 5
FROZEN_S = 30
STARTS_S = 60
BACKLOG = 8
"""Jobs that are never fewer while there are faults to come, so that some always wait."""


@figure(
    "R6",
    "The broker may die, forget, freeze or drop everybody",
    f"{KILLS} SIGKILLs without its data, {FLUSHES} FLUSHALL, {FREEZES} SIGSTOPs of {FROZEN_S} s, {CUTS} CLIENT KILL: "
    f"0 lost, 0 doubled, no attempt lost, waiting jobs start within {STARTS_S} s of its return",
)
def broker(bench):
    plan = ["kill"] * KILLS + ["flush"] * FLUSHES + ["freeze"] * FREEZES + ["cut"] * CUTS
    bench.dice.shuffle(plan)
    with Valkey(bench.folder / "valkey") as valkey, Cluster(bench.folder / "home", broker_url=valkey.url) as cluster:
        cluster.start(3)
        ids, starts = [], []
        for number, fault in enumerate(plan, 1):
            top_up(cluster, ids)
            time.sleep(bench.dice.uniform(0.3, 3))
            harm(valkey, fault, bench.dice)
            starts.append(until_a_stage_starts(cluster))
            bench.say(f"{number}/{len(plan)} {fault}: a stage began {starts[-1]:.1f} s after its return")
        cluster.wait_final(ids, 300)
        missed = faults(cluster, ids)
        retaken = sum(job["attempt"] - 1 for job in cluster.jobs(ids))
        missed += [f"{retaken} attempts were lost"] if retaken else []
        missed += [f"a waiting job started only {max(starts):.0f} s after a return"] if max(starts) > STARTS_S else []
        return {
            "faults": len(plan),
            "jobs": len(ids),
            "attempts_lost": retaken,
            "start_after_return_p50_s": round(sorted(starts)[len(starts) // 2], 1),
            "start_after_return_worst_s": round(max(starts), 1),
        }, missed


def top_up(cluster, ids):
    """Submit until enough jobs are unfinished."""
    open_jobs = sum(job["status"] in ("pending", "queued", "running") for job in cluster.jobs(ids))
    if open_jobs < BACKLOG:
        ids += cluster.submit(BACKLOG - open_jobs + 4, steps=150)


def harm(valkey, fault, dice):
    """Do one thing to the broker; it is back when this returns."""
    match fault:
        case "kill":
            valkey.restart(keep=False, away_s=dice.uniform(0, 3))
        case "flush":
            valkey.flush()
        case "freeze":
            valkey.freeze()
            time.sleep(FROZEN_S)
            valkey.thaw()
        case "cut":
            valkey.drop_clients()


def until_a_stage_starts(cluster):
    """Seconds until a worker claims something again."""
    began, before = time.monotonic(), claims(cluster)
    cluster.wait(lambda: claims(cluster) > before, 2 * STARTS_S, "a stage begins")
    return time.monotonic() - began


def claims(cluster):
    """How many stages were ever claimed."""
    from celora.models.tables import Event

    return len(cluster._rows(Event, Event.kind == "stage_started"))
