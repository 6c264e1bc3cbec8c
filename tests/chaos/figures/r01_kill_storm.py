"""R1: a storm of SIGKILLs over fifty jobs, and the same storm over a plain Celery task with late ack.

``CHAOS_QUEUE=1`` turns the queue's rules on: tenants with classes and limits, urgent jobs that preempt others, budgets
that end in mid-training, and books that must agree in the end. It takes a minute or two longer than the storm without.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from chaos import chain, plain, plot, queue_load
from chaos.figure import figure
from chaos.hostile_traffic import HostileTraffic
from chaos.installation import installation
from chaos.oracle import faults, waste
from chaos.servers import Valkey
from chaos.storm import Storm

JOBS, KILLS = int(os.environ.get("CHAOS_JOBS", "50")), int(os.environ.get("CHAOS_KILLS", "200"))
STEPS, SAVE_STEPS, WORKERS = 600, 25, 3
ENOUGH_S = 1500
TIMEOUTS_S = (5, 30)
"""Visibility timeouts of the plain task: as quick as our lease, and longer than the task takes."""
ROOT = Path(__file__).parents[3]
SETTINGS = {"CELORA_MAX_ATTEMPTS": "30"}
"""At a kill every four seconds and worker, three attempts in a row without a checkpoint are no sign of a bad job."""
QUEUE = bool(os.environ.get("CHAOS_QUEUE"))


@figure(
    "R1",
    "Nothing is lost or done twice in a storm of kills",
    f">= {KILLS} SIGKILLs over {JOBS} jobs: 0 lost, 0 doubled, {JOBS}/{JOBS} right weights, worst redo <= {SAVE_STEPS} "
    "steps, waste <= 10 %",
    seeds=1 if QUEUE else 3,
)
def kill_storm(bench):
    database = "postgres" if bench.seed % 2 == 0 else "sqlite"
    settings = SETTINGS | (queue_load.PREEMPTING if QUEUE else {})
    with installation(bench.folder, database=database, gpus=WORKERS, settings=settings) as cluster:
        began = time.monotonic()
        ids = submit(cluster)
        storm = Storm(cluster, bench.dice)
        watch = progress_of(bench, cluster, ids, storm)
        with hostile_traffic(bench, cluster) as sent:
            if QUEUE:
                storm.rage(KILLS // 4, watch)
                ids += queue_load.submit_urgent(cluster, JOBS, steps=STEPS, save_steps=SAVE_STEPS)
                queue_load.wait_preempting(cluster)
            kills = storm.rage(KILLS, watch)
        jobs = queue_load.wait_final(cluster, ids, ENOUGH_S)
        seconds = time.monotonic() - began
        missed = faults(cluster, ids, settle_s=60)
        wasted = waste(cluster, ids)
        books = queue_load.books(cluster) if QUEUE else {}
    missed += queue_load.faults_of_books(books) if QUEUE else []
    missed += [f"no event {kind}" for kind in queue_load.COUNTED if QUEUE and not books[kind]]
    missed += [f"only {kills} kills"] if kills < KILLS else []
    missed += [f"a fault cost {wasted['worst_redo']} steps"] if wasted["worst_redo"] > SAVE_STEPS else []
    missed += [f"{wasted['waste']:.1%} of the steps were done twice"] if wasted["waste"] > 0.1 else []
    completed = [job for job in jobs if job["status"] == "completed"]
    numbers = {
        "database": database,
        "kills": kills,
        "killed": dict(storm.kills),
        **({"hostile": dict(sent)} if sent else {}),
        **({"books": books} if books else {}),
        "jobs": len(ids),
        "completed": len(completed),
        "most_attempts": max(job["attempt"] for job in jobs),
        "storm_s": round(seconds, 1),
        **wasted,
    }
    if not missed and not QUEUE:
        show(ours=numbers)
    return numbers, missed


def submit(cluster):
    """Submit the jobs; with the queue's rules on, those of three tenants but the urgent ones."""
    if not QUEUE:
        return cluster.submit(JOBS, steps=STEPS, save_steps=SAVE_STEPS)
    queue_load.set_tenants(cluster)
    return queue_load.submit_mixed(cluster, JOBS, steps=STEPS, save_steps=SAVE_STEPS)


@contextmanager
def hostile_traffic(bench, cluster):
    """Malformed messages and remote commands during the storm, where ``CHAOS_HOSTILE=1`` asks for them."""
    if not os.environ.get("CHAOS_HOSTILE"):
        yield {}
        return
    with HostileTraffic(cluster.environment["CELORA_BROKER_URL"], bench.dice) as traffic:
        yield traffic.sent


def progress_of(bench, cluster, ids, storm):
    """Whether all has ended, told now and then to whoever watches."""
    told = [0.0]

    def over():
        ended = sum(job["status"] in ("completed", "failed", "cancelled") for job in cluster.jobs(ids))
        if time.monotonic() - told[0] > 20:
            bench.say(f"{ended} of {len(ids)} jobs ended, {sum(storm.kills.values())} kills")
            told[0] = time.monotonic()
        return ended == len(ids)

    return over


@figure(
    "P1",
    "For comparison: the same storm over a plain Celery task (acks_late, reject_on_worker_lost, a checkpoint file)",
    "no goal: what is lost, doubled and redone is told",
)
def plain_storm(bench):
    with ThreadPoolExecutor(len(TIMEOUTS_S)) as pool:  # both mostly sleep
        storms = list(pool.map(lambda timeout_s: one_plain_storm(bench, timeout_s), TIMEOUTS_S))
    numbers = {key: value for storm in storms for key, value in storm.items()}
    show(plain_numbers=numbers)
    return numbers, []


def one_plain_storm(bench, timeout_s):
    """The storm over the plain task with one visibility timeout."""
    folder = bench.folder / f"plain-{timeout_s}"
    with (
        Valkey(bench.folder / f"valkey-{timeout_s}") as valkey,
        plain.PlainCelery(folder, valkey.url, visibility_timeout_s=timeout_s) as cluster,
    ):
        cluster.start(WORKERS)
        ids = [f"p{number:02d}" for number in range(JOBS)]
        began = time.monotonic()
        cluster.submit(ids, steps=STEPS, save_steps=SAVE_STEPS)
        storm = Storm(cluster, random.Random(f"{bench.seed} {timeout_s}"))
        kills = storm.rage(KILLS, lambda: len(cluster.results()) == JOBS)
        cluster.wait_quiet(timeout_s)
        results, steps = cluster.results(), cluster.steps_done()
        wanted = chain.expected(1, "plain", STEPS)
        name = f"timeout_{timeout_s}_s"
        bench.say(f"visibility timeout {timeout_s} s: {kills} kills, {len(results)} of {JOBS} jobs have a result")
        return {
            f"{name}_kills": kills,
            f"{name}_lost": JOBS - len(results),
            f"{name}_doubled": sum(len(found) > 1 for found in results.values()),
            f"{name}_wrong": sum(found[0] != wanted for found in results.values()),
            f"{name}_steps_done": steps,
            f"{name}_steps_needed": JOBS * STEPS,
            f"{name}_waste": round(steps / (JOBS * STEPS) - 1, 4),
            f"{name}_seconds": round(time.monotonic() - began, 1),
        }


def show(*, ours=None, plain_numbers=None):
    """The plot of both, as soon as both were measured."""
    ours, plain_numbers = ours or last_numbers("R1"), plain_numbers or last_numbers("P1")
    if not ours or not plain_numbers:
        return
    values = {"celora": (ours["jobs"] - ours["completed"], 0, 100 * ours["waste"])}
    for timeout_s in TIMEOUTS_S:
        found = {key: plain_numbers[f"timeout_{timeout_s}_s_{key}"] for key in ("lost", "doubled", "waste")}
        values[f"plain task, timeout {timeout_s} s"] = (found["lost"], found["doubled"], 100 * found["waste"])
    labels = ("jobs lost", "jobs done twice", "steps done twice, of 100 needed")
    groups = {
        label: {name: round(numbers[position], 1) for name, numbers in values.items()}
        for position, label in enumerate(labels)
    }
    page = ROOT / "docs" / "survival.svg"
    page.write_text(plot.bars(f"{JOBS} jobs under {KILLS} SIGKILLs and more", groups))


def last_numbers(name):
    """The numbers of a figure's last run; None where it was never measured."""
    path = ROOT / "benchmarks" / "results" / "chaos" / f"{name}.json"
    runs = [run for run in json.loads(path.read_text())["runs"] if run["numbers"]] if path.exists() else []
    return max(runs, key=lambda run: run["numbers"].get("waste", 0))["numbers"] if runs else None
