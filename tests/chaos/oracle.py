"""What must be true of an installation after it was harmed; every fault in words, "unknown" counted as one.

It judges by four witnesses that do not know of each other: the record's events, the step logs that the trainers wrote,
the published files, and the kernel's list of processes.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from chaos.cluster import FINAL
from chaos.legal import ENDS, STAGES, faults_of
from chaos.mini_trainer import WEIGHTS

from celora.errors import StorageError
from celora.storage.manifest import verify_manifest

CHECKED: Counter[str] = Counter()
"""Of the figure that is being measured: jobs and events that were judged, and what was illegal in a history."""

STAGED = re.compile(r"^\.(tmp-|staged-|incoming-|.+-[0-9a-f]{8}$)")


def faults(cluster, ids, *, status="completed", settle_s=20):
    """Everything that is wrong about these jobs, which are to have ended in a status; waits for what may still settle.

    Args:
        cluster: The installation.
        ids: The jobs that were accepted.
        status: How each is to have ended; a callable of the job's row for more than one answer.
        settle_s: Seconds that announcements and leaving trainers have.
    """
    found = []
    settled(cluster, ids, settle_s)
    CHECKED["jobs"] += len(ids)
    jobs = {job["id"]: job for job in cluster.jobs(ids)}
    for job_id in ids:
        job = jobs.get(job_id)
        if job is None:
            found.append(f"{job_id}: lost, it has no row")
            continue
        wanted = status(job) if callable(status) else status
        found += [f"{job_id}: {fault}" for fault in faults_of_job(cluster, job, wanted)]
    return found + [f"orphan trainer {process.pid}" for process in orphans(cluster)]


def settled(cluster, ids, timeout_s):
    """Wait until the ends are announced and no trainer is left; what is not by then is judged as it is."""

    def quiet():
        told = all(row["announced_at"] for job_id in ids for row in cluster.announcements(job_id))
        return told and not cluster.trainers()

    try:
        cluster.wait(quiet, timeout_s)
    except TimeoutError:
        return


def faults_of_job(cluster, job, status):
    """What is wrong about one job."""
    events = cluster.events(job["id"])
    illegal = faults_of(events)
    CHECKED["events"] += len(events)
    CHECKED["illegal"] += len(illegal)
    found = [*illegal, *one_end(job, events, status), *attempts_in_order(cluster.attempts(job["id"]), job)]
    announced = cluster.announcements(job["id"])
    told = [bool(row["announced_at"]) for row in announced]
    if job["status"] in FINAL and told != [True] and events[-1]["kind"] != "rejected":
        found.append(f"its end was not announced ({len(announced)} rows)")
    if job["status"] == "completed":
        found += weights_right(cluster, job)
        found += steps_whole(cluster, job)
    return [*found, *checkpoints_whole(cluster, job["id"])]


def one_end(job, events, status):
    """Lost and doubled: the end is there once, is the one that was wanted, and each stage was finished once."""
    found = []
    if job["status"] != status:
        reason = (job["error"] or {}).get("message", "")
        found.append(f"is {job['status']} in {job['stage']} and not {status} {reason}".rstrip())
    kinds = Counter(event["kind"] for event in events)
    ends = sum(kinds[kind] for kind in ENDS)
    if ends != (job["status"] in FINAL):
        found.append(f"has {ends} ends")
    if job["status"] == "completed":
        stages = Counter(event["data"]["stage"] for event in events if event["kind"] == "stage_finished")
        found += [f"{stage} was finished {stages[stage]} times" for stage in STAGES if stages[stage] != 1]
    return found


def attempts_in_order(attempts, job):
    """Attempts count upwards, only the last may be open, and each began after the one before had ended."""
    found = []
    numbers = [row["number"] for row in attempts]
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > job["attempt"]):
        found.append(f"its attempts are {numbers} at attempt {job['attempt']}")
    for earlier, later in pairwise(attempts):
        if earlier["ended_at"] is None or earlier["ended_at"] > later["started_at"]:
            found.append(f"attempt {earlier['number']} was open when {later['number']} began")
    if job["status"] in FINAL and any(row["ended_at"] is None for row in attempts):
        found.append("an attempt is open after the end")
    return found


def weights_right(cluster, job):
    """One adapter, below the last attempt, whole, and with the weights of an uninterrupted run."""
    adapters = cluster.adapters(job["id"])
    if len(adapters) != 1 or job["adapter_uri"] not in (None, adapters[0]["uri"]):
        return [f"has {len(adapters)} adapters"]
    folder = Path(adapters[0]["uri"].removeprefix("file://"))
    try:
        verify_manifest(folder)
    except StorageError as error:
        return [f"its adapter is torn: {error}"]
    found = []
    if f"attempt-{job['attempt']}" not in folder.parts:
        found.append(f"its adapter lies in {folder}, its last attempt is {job['attempt']}")
    if (folder / WEIGHTS).read_text() != cluster.expected_weights(job):
        found.append("its weights are wrong")
    return found + [f"staged file left in its adapter: {path}" for path in folder.rglob("*") if STAGED.match(path.name)]


def steps_whole(cluster, job):
    """Each attempt's steps follow each other, and all of them together are the whole run."""
    found, done = [], set()
    for attempt, log in cluster.steps(job["id"]).items():
        numbers = [step for step, _ in log]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            found.append(f"attempt {attempt} did the steps {numbers[:3]}…{numbers[-3:]} out of order")
        done.update(numbers)
    if done != set(range(1, job["spec"]["max_steps"] + 1)):
        found.append(f"{len(done)} of {job['spec']['max_steps']} steps were done")
    return found


def checkpoints_whole(cluster, job_id):
    """Every checkpoint of the record that lies where the record says is whole."""
    found = []
    for row in cluster.checkpoints(job_id):
        folder = Path(row["uri"].removeprefix("file://"))
        if not folder.exists():
            continue  # swept
        try:
            verify_manifest(folder)
        except StorageError as error:
            found.append(f"the recorded checkpoint of step {row['step']} is torn: {error}")
    return found


def orphans(cluster):
    """Trainers that run although no job does."""
    running = [job for job in cluster.jobs() if job["status"] == "running"]
    return [] if running else cluster.trainers()


def redone(cluster, job_id):
    """For each attempt but the first: how many steps it did that an earlier one had done."""
    counts, furthest = [], 0
    for log in cluster.steps(job_id).values():
        numbers = [step for step, _ in log]
        if numbers and furthest:
            counts.append(max(0, furthest - numbers[0] + 1))
        furthest = max([furthest, *numbers])
    return counts


def waste(cluster, ids):
    """Steps done twice, of the steps that were needed, and the worst of one fault."""
    each = [count for job_id in ids for count in redone(cluster, job_id)]
    needed = sum(job["spec"]["max_steps"] for job in cluster.jobs(ids))
    done = sum(len(log) for job_id in ids for log in cluster.steps(job_id).values())
    return {
        "steps_needed": needed,
        "steps_done": done,
        "waste": round((done - needed) / needed, 4),
        "worst_redo": max(each, default=0),
        "resumes": len(each),
    }
