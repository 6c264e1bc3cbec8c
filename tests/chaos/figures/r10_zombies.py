"""R10: workers that are frozen past their lease and wake up when their job has gone on elsewhere.

Twelve times a whole machine (worker and trainer) or the worker alone is stopped in the middle of training; then eight
times the worker stops itself at a named point, where it is about to do something that the job must not see any more.
Three of these are inside an open transaction, which PostgreSQL has to end before anybody else can go on.
"""

import os
import signal
import time
from pathlib import Path

from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults
from chaos.processes import look, processes_of

RANDOM = 12
POINTS = (
    "claim.committed", "checkpoint.uploading", "upload.file", "checkpoint.uploaded", "work.end",
    "progress.written", "lease.renewing", "ending.written",
)  # fmt: skip
GONE_S = 10
"""Seconds that the trainer of a fenced attempt has to go once its worker is awake."""


@figure(
    "R10",
    "A frozen worker that wakes up changes nothing",
    f"{RANDOM + len(POINTS)} SIGSTOP/SIGCONT past the lease: 0 writes accepted from old attempts, 0 files changed, "
    f"old trainers gone within {GONE_S} s",
)
def zombies(bench):
    missed, ids, gone, alive = [], [], [], 0
    with installation(bench.folder, database="postgres", gpus=2) as cluster:
        for number in range(RANDOM):
            job_id, trainers, seconds, trouble = freeze_in_training(cluster, bench.dice, machine=number % 2 == 0)
            bench.say(f"freeze {number + 1}: {trainers} old trainer(s), gone {seconds:.2f} s after the thaw {trouble}")
            alive += trainers
            ids.append(job_id)
            gone.append(seconds)
            missed += trouble
        for point in POINTS:
            job_id, trouble = freeze_at(cluster, point)
            bench.say(f"{point}: {trouble or 'nothing changed'}")
            ids.append(job_id)
            missed += trouble
        missed += faults(cluster, ids)
        late = sum(late_writes(cluster, job_id) for job_id in ids)
    missed += [f"{late} writes of old attempts were accepted"] if late else []
    missed += [f"an old trainer was there for {max(gone):.1f} s"] if max(gone) > GONE_S else []
    return {
        "freezes": len(ids),
        "accepted_writes": late,
        "old_trainers_at_thaw": alive,
        "trainer_gone_worst_s": round(max(gone), 2),
        "trainer_gone_s": [round(seconds, 2) for seconds in gone],
    }, missed


def freeze_in_training(cluster, dice, *, machine):
    """Freeze a job's worker until the job steps elsewhere.

    Returns:
        The job's id, how many of its old trainers lived at the thaw, the seconds they had from then on, the faults.
    """
    (job_id,) = cluster.submit(1, steps=400)
    step = dice.randrange(5, 120)
    cluster.wait(lambda: trains(cluster, job_id) and steps_of(cluster, job_id, 1) >= step, 60, f"it did {step} steps")
    job = cluster.job(job_id)
    attempt, worker = job["attempt"], job["worker_id"].split("@")[0]
    trainers = cluster.trainers(worker)
    cluster.freeze(worker)
    for trainer in trainers if machine else ():
        os.kill(trainer.pid, signal.SIGSTOP)
    cluster.wait(lambda: steps_of(cluster, job_id, attempt + 1) > 0, 60, f"{job_id} steps elsewhere")
    before = files_of(cluster, job_id, but_attempt=attempt)
    alive = sum(lives(trainer) for trainer in trainers)
    cluster.thaw(worker)
    for trainer in trainers if machine else ():
        os.kill(trainer.pid, signal.SIGCONT)
    seconds = until_gone(trainers)
    cluster.wait_final([job_id], 60)
    return job_id, alive, seconds, changed(before, files_of(cluster, job_id, but_attempt=attempt), job_id)


def freeze_at(cluster, point):
    """Have a worker's child stop itself at a failpoint and wake it when its job has ended elsewhere."""
    fired = cluster.home / "fired" / point
    fired.mkdir(parents=True)
    for name in ("cpu-0", "cpu-1"):
        cluster.kill(name)
        armed = {"CELORA_FAILPOINT": f"{point}:stop", "CELORA_FAILPOINT_ONCE": str(fired)}
        cluster.start_worker("gpu", name, armed)
    cluster.wait_registered()
    (job_id,) = cluster.submit(1, steps=120)
    cluster.wait(lambda: (fired / point).exists() and stopped(cluster), 60, f"{point} is passed")
    (sleeper,) = stopped(cluster)
    trouble = []
    try:
        cluster.wait_final([job_id], 60)
    except TimeoutError as error:
        trouble.append(f"{point}: the job did not go on while its worker was frozen ({str(error).splitlines()[0]})")
    before = files_of(cluster, job_id, but_attempt=1)
    os.kill(sleeper.pid, signal.SIGCONT)
    cluster.wait_final([job_id], 60)
    cluster.wait(lambda: not cluster.trainers(), 30, "every trainer is gone")
    worker_is_idle_again(cluster)
    return job_id, trouble + ([] if trouble else changed(before, files_of(cluster, job_id, but_attempt=1), job_id))


def worker_is_idle_again(cluster):
    """The woken worker is through with its old job when it takes a new one: two at once, so that each takes one."""
    ids = cluster.submit(2, steps=40)
    cluster.wait_final(ids, 60)


def stopped(cluster):
    """The processes of the installation that are stopped."""
    return [process for process in processes_of(cluster.home) if process.state == "T"]


def trains(cluster, job_id):
    """Whether a worker holds the job's training."""
    job = cluster.job(job_id)
    return (job["status"], job["stage"]) == ("running", "train")


def steps_of(cluster, job_id, attempt):
    """The last step that an attempt, or a later one, did."""
    return max((log[-1][0] for number, log in cluster.steps(job_id).items() if number >= attempt and log), default=0)


def until_gone(trainers):
    """Seconds until these processes are gone; a minute at most."""
    began = time.monotonic()
    while time.monotonic() - began < 60 and any(lives(trainer) for trainer in trainers):
        time.sleep(0.01)
    return time.monotonic() - began


def lives(process):
    """Whether a process still is one."""
    found = look(process.pid)
    return found is not None and found.state != "Z"


def files_of(cluster, job_id, but_attempt=None):
    """Every artifact of a job with its time and size, logs aside."""
    root = Path(cluster.home) / "artifacts" / "jobs" / job_id
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file() and not ({"logs", f"attempt-{but_attempt}"} & {*path.parts})
    }


def changed(before, after, job_id):
    """What was there and is not what it was."""
    return [f"{job_id}: {path} was changed" for path, facts in before.items() if after.get(path) != facts]


def late_writes(cluster, job_id):
    """Measurements and checkpoints that an attempt wrote after it was taken from its worker; events: chaos.legal."""
    from celora.models.tables import Checkpoint, MetricPoint

    taken = {row["number"]: row["ended_at"] for row in cluster.attempts(job_id)}
    rows = [(row["attempt"], row["at"]) for row in cluster._rows(MetricPoint, MetricPoint.job_id == job_id)]
    rows += [(row["attempt"], row["created_at"]) for row in cluster._rows(Checkpoint, Checkpoint.job_id == job_id)]
    return sum(taken.get(attempt) is not None and at > taken[attempt] for attempt, at in rows)
