"""R2: a kill at every named failpoint, one after the other, each while a job of its own passes it."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults

from celora.settings.failpoints import FAILPOINTS

SETTINGS = {
    "CELORA_LEASE_S": "2",
    "CELORA_HEARTBEAT_S": "0.4",
    "CELORA_REAPER_S": "0.5",
    "CELORA_TICK_S": "0.5",
    "CELORA_CLAIM_S": "3",
}
ANNOUNCEMENT_S = 45
"""An announcement whose maker died is made again after its claim of 30 s."""


@dataclass(frozen=True)
class Case:
    """One kill: which failpoint is armed, in which worker, for what kind of job, and what is done to the job."""

    point: str
    victim: str = "gpu"
    job: dict = field(default_factory=dict)
    also: str = ""
    """Failpoints that bring about what the armed one is a part of, and where they are armed: ``gpu work.begin``."""
    after: str = ""
    """What is done once the job trains: ``drain`` or ``cancel``; once it is completed: ``evaluate``."""
    ends: str = "completed"

    @property
    def name(self):
        return " ".join(filter(None, [self.point, f"in {self.victim}", self.after, self.job.get("base", "")]))


LONG = {"steps": 150}
CASES = [
    *(Case(point, "submit") for point in ("submit.written", "submit.committed", "submit.sent")),
    *(Case(point, "control") for point in ("accept.received", "accept.committed")),
    *(Case(point, "control") for point in ("tick.decided", "tick.committed", "tick.sent")),
    Case("resend.committed", "control", also="control tick.committed"),
    *(Case(point, "control", also="gpu work.begin") for point in ("reap.expired", "reap.committed")),
    *(
        Case(point, victim)
        for point in ("claim.taken", "claim.committed", "work.begin", "work.end", "ending.written", "ending.committed")
        for victim in ("prep", "gpu", "control")
    ),
    *(Case(point, job={"base": "chain:exit"}, ends="failed") for point in ("ending.written", "ending.committed")),
    *(Case(point, job=LONG, after="drain") for point in ("ending.written", "ending.committed")),
    *(Case(point, job=LONG, after="cancel", ends="cancelled") for point in ("ending.written", "ending.committed")),
    *(Case(point, job=LONG) for point in ("lease.renewing", "lease.renewed")),
    *(Case(point) for point in ("progress.written", "progress.committed")),
    *(Case(point) for point in ("checkpoint.uploading", "checkpoint.uploaded", "checkpoint.recorded")),
    *(Case(point) for point in ("upload.begin", "upload.file", "upload.staged", "upload.renamed", "upload.done")),
    *(Case("upload.done", victim) for victim in ("prep", "control")),
    Case("upload.removed", after="evaluate"),
    *(Case(point) for point in ("commit.staged", "commit.flush", "commit.manifest", "commit.renamed")),
    *(Case(point) for point in ("save.begin", "save.filled", "save.committed", "prune.unlinked")),
    *(Case(point) for point in ("step.forward", "step.done", "step.reported", "adapter.staged", "adapter.committed")),
    *(Case(point, "control") for point in ("publish.assembled", "publish.uploaded")),
    *(Case(point, "control") for point in ("announce.claimed", "announce.told")),
]

ELSEWHERE = {
    "slots.written": "tests/acceptance/test_two_of_each.py, test_slots.py",
    "slots.committed": "tests/acceptance/test_two_of_each.py, test_slots.py",
    "champion.moved": "tests/services/test_challenge.py",
    "champion.claimed": "tests/services/test_challenge.py",
}
"""Lines that no job of this figure passes, and the tests of `make test` that kill there."""

WORKERS = {"gpu": "cpu-0", "control": "control", "prep": "prep"}


@figure(
    "R2",
    "A kill at every named line is survived",
    f"a kill at each of {len(FAILPOINTS) - len(ELSEWHERE)} failpoints ({len(ELSEWHERE)} more die in `make test`): "
    "every job ends as it should, once, with the right weights",
)
def every_line(bench):
    covered = {case.point for case in CASES}
    missed = [f"no case passes {point}" for point in FAILPOINTS if point not in covered | ELSEWHERE.keys()]
    lanes = [[case for case in CASES if (case.victim == "gpu") is on_gpu] for on_gpu in (True, False)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        results = list(pool.map(lambda number: lane(bench, lanes[number], bench.folder / str(number)), range(2)))
    missed += [fault for _, faults_found in results for fault in faults_found]
    return {
        "failpoints": len(covered),
        "kills": len(CASES),
        "jobs": sum(jobs for jobs, _ in results),
        "wrong": sum(len(faults_found) for _, faults_found in results),
    }, missed


def lane(bench, cases, folder):
    """Cases one after the other in an installation of their own; how many jobs there were, and every fault."""
    folder.mkdir()
    with installation(folder, gpus=1, settings=SETTINGS) as cluster:
        ended, found = {}, []
        for number, case in enumerate(cases):
            job_id, trouble = run(cluster, case, cluster.home / "fired" / str(number))
            ended[job_id] = case
            found += [f"{case.name}: {words}" for words in trouble]
            bench.say(f"{number + 1} of {len(cases)}: {case.name} {trouble or ''}")
        wrong = faults(cluster, list(ended), status=lambda job: ended[job["id"]].ends, settle_s=ANNOUNCEMENT_S)
        named = {job_id: case.name for job_id, case in ended.items()}
        return len(ended), found + [f"{named.get(fault.split(':')[0], '')} {fault}" for fault in wrong]


def run(cluster, case, fired):
    """One case; the job's id, and what was wrong already."""
    fired.mkdir(parents=True)
    once = {"CELORA_FAILPOINT_ONCE": str(fired)}
    armed = [(case.victim, case.point)] + ([tuple(case.also.split())] if case.also else [])
    for victim in {victim for victim, _ in armed} & set(WORKERS):
        points = ",".join(f"{point}:kill" for where, point in armed if where == victim)
        restart(cluster, WORKERS[victim], once | ({"CELORA_FAILPOINT": points} if case.after != "evaluate" else {}))
    cluster.wait_registered()
    job_id = f"j{uuid.uuid4().hex[:12]}"
    spec = {"steps": 60, "save_steps": 10, **case.job}
    job = [{"id": job_id, "fields": cluster.spec(**spec)}]
    try:
        cluster.submissions(job, once | {"CELORA_FAILPOINT": f"{case.point}:kill"} if case.victim == "submit" else {})
        if case.victim == "submit" and cluster.job(job_id) is None:
            cluster.submissions(job)  # it was never promised; its caller asks again, with the same id
        provoke(cluster, case, job_id, once)
        cluster.wait((fired / case.point).exists, 40, f"{case.name} is passed")
        cluster.wait_final([job_id], 60)
    except TimeoutError as error:
        return job_id, [str(error).splitlines()[0]]
    return job_id, []


def provoke(cluster, case, job_id, once):
    """What is done to the job so that it passes the failpoint at all."""
    if case.after in ("drain", "cancel"):
        cluster.wait(lambda: (cluster.job(job_id) or {}).get("step", 0) > 3, 40, "the job trains")
    if case.after == "cancel":
        cluster.command("celora", "cancel", job_id)
    if case.after == "drain":
        cluster.workers["cpu-0"].terminate()
        cluster.workers["cpu-0"].wait(timeout=60)
        cluster.start_worker("gpu", "cpu-0")
    if case.after == "evaluate":
        cluster.wait_final([job_id], 60)
        restart(cluster, "cpu-0", once | {"CELORA_FAILPOINT": f"{case.point}:kill"})
        cluster.wait_registered()
        cluster.command("celora", "evaluate", job_id)


def restart(cluster, name, env):
    """A worker anew, with other variables."""
    cluster.kill(name)
    cluster.start_worker("gpu" if name == "cpu-0" else name, name, env)
