"""Clocks that jump while jobs run and a schedule is due: of two machines, and of the only machine there is.

With PostgreSQL the record's clock is the server's, which stays, whatever the clocks of the machines do. With SQLite it
is the clock of the process that asks; there all processes jump together, as when the clock of a machine is set.
Monotonic clocks do not jump.
"""

import json
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from chaos.cluster import Cluster
from chaos.figures.r12_two_of_each import clock, twice
from chaos.oracle import faults
from chaos.servers import Postgres, Valkey
from hostile.attack import Attempt, kind
from sqlalchemy import select

from celora.models.scope.scope import Scope
from celora.models.tables import ScheduleRun

JUMPS = ("+1h", "-1h", "+1d", "-1d")
PROCESSES = {"control": "control", "beat": "control", "prep": "prep", "cpu-0": "worker"}
"""Each process and the machine on which it runs."""
SETTINGS = {
    "CELORA_LEASE_S": "20",
    "CELORA_CLAIM_S": "60",
    "CELORA_TICK_S": "2",
    "CELORA_REAPER_S": "2",
    "CELORA_LATE_S": "900",
}
"""A lease that a busy computer can keep, and runs that it may start late; every jump is far longer than the lease."""
EVERY_S = 10
WAIT_S = 400


@kind("clocks", "wall clocks of two machines that jump while jobs run and a schedule is due", minutes=2)
def clocks(dice, folder):
    """In each attempt the clocks of a worker and of the control machine jump, differently, and then back."""
    jumps = dice.sample(JUMPS, len(JUMPS))
    with installation(folder, "postgres") as (cluster, files):
        for number, jump in enumerate(jumps):
            moved = {"worker": jump, "control": jumps[number - 1]}
            yield Attempt(
                f"worker {moved['worker']}, control {moved['control']}",
                lambda moved=moved: hold_jump(cluster, files, moved, steady=True),
            )


@kind("clock_set", "the clock of the only machine is set while jobs run and a schedule is due", minutes=2)
def clock_set(dice, folder):
    """In each attempt the clock of all processes jumps in the middle of two jobs, and back when they have ended."""
    with installation(folder, "sqlite") as (cluster, files):
        for jump in dice.sample(JUMPS, len(JUMPS)):
            yield Attempt(
                f"{jump} on the only machine",
                lambda jump=jump: hold_jump(cluster, files, dict.fromkeys(files, jump), steady=False),
            )


@contextmanager
def installation(folder, database):
    """A running installation, and the files that set the clocks of its machines."""
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        url = None
        if database == "postgres":  # whose user may not enter the folder of this run
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celora-clocks-")))
            place.chmod(0o755)
            url = stack.enter_context(Postgres(place / "postgres")).create("clocks")
        cluster = Cluster(folder / "home", broker_url=valkey.url, database_url=url, settings=SETTINGS)
        stack.enter_context(cluster)
        yield cluster, start(cluster)


def start(cluster):
    """Start the processes, each with the clock of its machine; returns the files that set the clocks."""
    files = {name: cluster.home / f"clock-{name}" for name in set(PROCESSES.values())}
    for file in files.values():
        file.write_text("+0")
    for name, machine in PROCESSES.items():
        changes = {**clock("+0"), "FAKETIME_TIMESTAMP_FILE": str(files[machine]), "FAKETIME_CACHE_DURATION": "1"}
        del changes["FAKETIME"]
        cluster.start_worker("gpu" if name == "cpu-0" else name, name, changes)
    cluster.wait_registered()
    return files


def hold_jump(cluster, files, moved, *, steady):
    """Jobs that run and wait end once, in their first attempt; the schedule runs on, each run once, none lost."""
    name = add_schedule(cluster)
    try:
        ids = cluster.submit(2, steps=120, save_steps=30)
        cluster.wait(lambda: any(job["step"] > 10 for job in cluster.jobs(ids)), WAIT_S, "one trains")
        cluster.wait(lambda: runs(cluster), WAIT_S, "the schedule runs before the jump")
        for machine, jump in moved.items():
            files[machine].write_text(jump)
        if steady:  # who submits to SQLite would be on a machine whose clock did not jump
            ids += cluster.submit(1, steps=20)
        cluster.wait_final(ids, WAIT_S)
        wait_for_run(cluster, "the schedule runs after the jump")
    finally:
        for file in files.values():
            file.write_text("+0")
    wait_for_run(cluster, "the schedule runs after the clock was set back")
    cluster.command("celora", "schedule", "pause", name)
    found = runs(cluster)
    scheduled = [run.job_id for run in found if run.job_id]
    cluster.wait_final(scheduled, WAIT_S)
    cluster.command("celora", "schedule", "remove", name)  # and its runs with it
    assert wrong_of(cluster, ids, scheduled) + (gaps(found) if steady else []) == []


def wrong_of(cluster, ids, scheduled):
    """What is wrong with the jobs of somebody and of the schedule."""
    wrong = faults(cluster, ids)
    wrong += [f"job {job_id} of {count} runs" for job_id, count in Counter(scheduled).items() if count > 1]
    wrong += [f"{job['id']}, of the schedule, is {job['status']}" for job in cluster.jobs(scheduled)
              if job["status"] != "completed"]  # fmt: skip
    for job_id in (*ids, *scheduled):
        events = cluster.events(job_id)
        wrong += [f"{job_id} was reaped" for event in events if event["kind"] == "worker_lost"]
        wrong += [f"{job_id}: {twice(events)} stages were sent or started twice"] if twice(events) else []
    return wrong


def gaps(found):
    """The runs of a schedule that the record lacks, where its clock did not jump: they follow each other."""
    times = sorted(run.at for run in found)
    return [f"no run between {one} and {other}" for one, other in pairwise(times)
            if other - one != timedelta(seconds=EVERY_S)]  # fmt: skip


def add_schedule(cluster):
    """Add the schedule of short jobs; returns its name."""
    name, spec = "clock", cluster.home / "schedule.json"
    spec.write_text(json.dumps(cluster.spec(steps=1)))
    rule = ("--every", f"{EVERY_S}s", "--overlap", "queue", "--spec", str(spec))
    cluster.command("celora", "schedule", "add", name, *rule)
    return name


def runs(cluster):
    """Every run of the schedule."""
    with cluster.database.session(Scope.everything) as session:
        return list(session.scalars(select(ScheduleRun)))


def wait_for_run(cluster, what):
    """Wait for one more run."""
    before = {run.key for run in runs(cluster)}
    cluster.wait(lambda: {run.key for run in runs(cluster)} - before, WAIT_S, what)
