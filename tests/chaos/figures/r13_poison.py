"""R13: jobs that can never end well, among good ones: each comes to its end soon and with the right class of error."""

from collections import Counter

from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults_of_job, settled

GOOD, EACH = 20, 2
ATTEMPTS = 3
CLASSES = {
    "chain:crash": {"killed", "host_out_of_memory"},
    "chain:exit": {"internal"},
    "chain:memory": {"out_of_memory"},
    "chain:hang": {"stalled"},
    "worker": {"worker_lost"},
}
"""What each poison must end as; ``worker`` is a job that takes its worker's child and trainer along each time."""


@figure(
    "R13",
    "Poison jobs end, and the good ones beside them finish",
    f"{EACH} each of jobs that crash, exit, run out of memory, hang and lose their worker among {GOOD} good ones: "
    f"bad ones end within {ATTEMPTS} attempts with the right class, {GOOD}/{GOOD} good ones complete",
)
def poison(bench):
    settings = {"CELORA_STALL_MINUTES": "0.1", "CELORA_MAX_ATTEMPTS": str(ATTEMPTS), "CELORA_RETRY_WAIT_S": "0.5"}
    with installation(bench.folder, gpus=3, settings=settings) as cluster:
        good = cluster.submit(GOOD // 2, steps=100)
        bad = {
            base: cluster.submit(EACH, steps=5000, save_steps=5000, base="chain" if base == "worker" else base)
            for base in CLASSES
        }
        good += cluster.submit(GOOD - GOOD // 2, steps=100)
        taken = bad["worker"]
        everyone = [*good, *(job_id for ids in bad.values() for job_id in ids)]
        lost = 0

        def ended():
            nonlocal lost
            for job_id in taken:
                lost += take_along(cluster, job_id)
            return all(job["status"] in ("completed", "failed") for job in cluster.jobs(everyone))

        cluster.wait(ended, 420, "every job has ended")
        settled(cluster, everyone, 20)
        missed, seen = [], Counter()
        for job in cluster.jobs(good):
            missed += [f"good {job['id']}: {fault}" for fault in faults_of_job(cluster, job, "completed")]
        for base, ids in bad.items():
            for job in cluster.jobs(ids):
                code = (job["error"] or {}).get("code")
                seen[f"{base} {code}"] += 1
                missed += [f"{base} {job['id']}: {fault}" for fault in faults_of_job(cluster, job, "failed")]
                missed += [] if code in CLASSES[base] else [f"{base} ended as {code}"]
                missed += complete(base, job)
        attempts = max(job["attempt"] for ids in bad.values() for job in cluster.jobs(ids))
        missed += [f"a poison job had {attempts} attempts"] if attempts > ATTEMPTS else []
        return {
            "good_completed": sum(job["status"] == "completed" for job in cluster.jobs(good)),
            "poison": sum(map(len, bad.values())),
            "most_attempts": attempts,
            "workers_killed": lost,
            "classes": ", ".join(f"{what} {count}" for what, count in sorted(seen.items())),
        }, missed


def take_along(cluster, job_id):
    """Kill whichever worker carries the job in training, and start another; how many."""
    job = cluster.job(job_id)
    if job is None or job["status"] != "running" or job["stage"] != "train":
        return 0
    name = job["worker_id"].split("@")[0]
    if cluster.workers[name].poll() is not None or not cluster.trainers(name):
        return 0
    cluster.kill(name)
    cluster.start_worker("gpu", name)
    return 1


def complete(base, job):
    """Every failed job says what happened, in which stage, and what to do."""
    error = job["error"] or {}
    return [f"{base}: its error has no {name}" for name in ("code", "message", "hint", "stage") if not error.get(name)]
