"""R17: jobs are cancelled at random times: waiting, sent, preparing, starting, training, saving, evaluating, ended."""

import time
from collections import Counter

from chaos.door import Door
from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults, orphans

CANCELS = 200
HEARTBEAT_S, STEP_S = 1.0, 0.02
P95_S = 2 * HEARTBEAT_S + STEP_S
TOGETHER = 6


@figure(
    "R17",
    "A cancel ends a job wherever it is",
    f"{CANCELS} cancels at random times: each cancelled or ended before, p95 <= 2 heartbeats and a step ({P95_S} s), "
    "0 trainers left, 0 stages started after the end",
)
def cancels(bench):
    missed, seconds, met, ids = [], [], Counter(), []
    with (
        installation(bench.folder, gpus=3, settings={"CHAOS_STAGE_S": "0.15"}) as cluster,
        Door(cluster) as door,
    ):
        while len(ids) < CANCELS:
            batch = [f"c{len(ids) + number}" for number in range(TOGETHER)]
            for job_id in batch:
                door.submit(job_id, cluster.spec(steps=bench.dice.choice((1, 40, 400)), save_steps=5))
            for job_id in bench.dice.sample(batch, len(batch)):
                time.sleep(bench.dice.uniform(0, 1.2))
                where = cluster.job(job_id)
                began = time.monotonic()
                answer = door.cancel(job_id)["answer"]
                cluster.wait(lambda one=job_id: ended(cluster, one), 60, f"{job_id} has ended")
                met[f"{where['status']} {where['stage']}"] += 1
                if answer != "final":
                    seconds.append(time.monotonic() - began)
            ids += batch
            bench.say(f"{len(ids)} cancels, worst {max(seconds):.2f} s")
        missed += faults(cluster, ids, status=lambda job: "completed" if job["status"] == "completed" else "cancelled")
        left = len(orphans(cluster))
    seconds.sort()
    p95 = seconds[int(len(seconds) * 0.95)]
    missed += [f"p95 is {p95:.2f} s"] if p95 > P95_S else []
    return {
        "cancels": len(ids),
        "took_effect": len(seconds),
        "p50_s": round(seconds[len(seconds) // 2], 2),
        "p95_s": round(p95, 2),
        "worst_s": round(seconds[-1], 2),
        "orphans": left,
        "met": ", ".join(f"{where} {count}" for where, count in sorted(met.items())),
    }, missed


def ended(cluster, job_id):
    """Final; the record says so only when the trainer's process group is gone."""
    return cluster.job(job_id)["status"] in ("cancelled", "completed", "failed")
