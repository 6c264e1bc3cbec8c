"""R6: the broker is killed with all its data, emptied, frozen and cut off, again and again, while jobs run and wait.

As in an installation there is a service manager: a process that leaves by itself is started again, and counted.
"""

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
        ids, starts, restarts = [], [], []
        for number, fault in enumerate(plan, 1):
            top_up(cluster, ids)
            time.sleep(bench.dice.uniform(0.3, 3))
            harm(valkey, fault, bench.dice)
            starts.append(until_a_stage_starts(cluster, restarts))
            bench.say(f"{number}/{len(plan)} {fault}: a stage began {starts[-1]:.1f} s after its return")
        cluster.wait(lambda: all_ended(cluster, ids, restarts), 300, "every job has ended")
        missed = faults(cluster, ids)
        retaken = sum(job["attempt"] - 1 for job in cluster.jobs(ids))
        missed += [f"{retaken} attempts were lost"] if retaken else []
        missed += [f"a waiting job started only {max(starts):.0f} s after a return"] if max(starts) > STARTS_S else []
        return {
            "faults": len(plan),
            "jobs": len(ids),
            "attempts_lost": retaken,
            "processes_that_left_and_were_restarted": len(restarts),
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


def until_a_stage_starts(cluster, restarts):
    """Seconds until a worker claims something again."""
    began, before = time.monotonic(), claims(cluster)

    def begins():
        keep_up(cluster, restarts)
        return claims(cluster) > before

    cluster.wait(begins, 2 * STARTS_S, "a stage begins")
    return time.monotonic() - began


def all_ended(cluster, ids, restarts):
    """Whether every job is final."""
    keep_up(cluster, restarts)
    return all(job["status"] in ("completed", "failed", "cancelled") for job in cluster.jobs(ids))


def keep_up(cluster, restarts):
    """Start again what has left, as systemd, Kubernetes and ``celora node`` do."""
    for name, process in list(cluster.workers.items()):
        if process.poll() is not None:
            restarts.append(f"{name} {process.returncode}")
            cluster.start_worker("gpu" if name.startswith("cpu-") else name, name)


def claims(cluster):
    """How many stages were ever claimed."""
    from celora.models.tables import Event

    return len(cluster._rows(Event, Event.kind == "stage_started"))
