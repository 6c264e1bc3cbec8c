"""R11: how long a job stands still when its machine dies, until it steps again elsewhere."""

import time
from pathlib import Path

from chaos import plot
from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults

KILLS = 30
LEASE_S = 4
CELERY_DEFAULT_S = 3600


@figure(
    "R11",
    "A killed worker's job steps again elsewhere after the lease and a little more",
    f"{KILLS} SIGKILLs, a worker free: p50 <= lease + 3 s, p95 <= lease + 8 s",
)
def recovery_time(bench):
    with installation(bench.folder, settings={"CELORA_MAX_ATTEMPTS": "20"}) as cluster:
        # never ends while we measure; the spare worker makes sure that nobody waits for a slot
        (job_id,) = cluster.submit(1, steps=100_000, save_steps=25)
        seconds = [kill_and_wait(cluster, job_id, bench) for _ in range(KILLS)]
        trainer_only = [kill_and_wait(cluster, job_id, bench, trainer=True) for _ in range(KILLS // 3)]
        cluster.command("celora", "cancel", job_id)
        cluster.wait_final([job_id], 60)
        missed = faults(cluster, [job_id], status="cancelled")
    seconds.sort()
    p50, p95 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.95)]
    missed += [f"p50 is {p50:.1f} s"] if p50 > LEASE_S + 3 else []
    missed += [f"p95 is {p95:.1f} s"] if p95 > LEASE_S + 8 else []
    Path(__file__).parents[3].joinpath("docs", "recovery.svg").write_text(curve(seconds, trainer_only))
    return {
        "kills": KILLS,
        "lease_s": LEASE_S,
        "p50_s": round(p50, 2),
        "p95_s": round(p95, 2),
        "worst_s": round(seconds[-1], 2),
        "trainer_only_worst_s": round(max(trainer_only), 2),
        "seconds": [round(value, 2) for value in seconds],
        "trainer_only_seconds": [round(value, 2) for value in sorted(trainer_only)],
    }, missed


def kill_and_wait(cluster, job_id, bench, *, trainer=False):
    """Kill the job's worker a while after its first steps; the seconds until its next attempt steps."""
    attempt = stepping(cluster, job_id, after_attempt=0)
    time.sleep(bench.dice.uniform(0.2, 1.2))  # anywhere between two checkpoints
    worker = cluster.job(job_id)["worker_id"].split("@")[0]
    killed_at = time.monotonic()
    if trainer:
        cluster.kill_trainer(worker)
    else:
        cluster.kill(worker)
        cluster.start_worker("gpu", worker)
    following = stepping(cluster, job_id, after_attempt=attempt)
    seconds = cluster.steps(job_id)[following][0][1] - killed_at
    bench.say(f"attempt {following} steps {seconds:.1f} s after the kill")
    return seconds


def stepping(cluster, job_id, *, after_attempt):
    """Wait until an attempt after that one took its first step; its number."""

    def newest():
        return max((attempt for attempt, log in cluster.steps(job_id).items() if log), default=0)

    cluster.wait(lambda: newest() > after_attempt, 120, f"{job_id} steps after attempt {after_attempt}")
    return newest()


def curve(seconds, trainer_only):
    """The distribution, with the lease as a mark."""
    return plot.curves(
        f"From the kill to the next step (lease {LEASE_S} s; Celery's visibility timeout is {CELERY_DEFAULT_S} s)",
        "seconds",
        {"worker killed": seconds, "trainer killed": trainer_only},
        marks=[(LEASE_S, "lease")],
    )
