"""Many small jobs in one installation: no process grows, and each job leaves the same rows and keys."""

from collections import Counter
from itertools import count
from pathlib import Path

import psutil
from chaos.installation import installation
from chaos.oracle import STAGED, faults
from hostile.attack import Attempt, kind
from sqlalchemy import func, select

from celora.models.scope.scope import Scope
from celora.models.tables import Table

BATCH, WAIT_S = 20, 900
WARM_BATCHES = 2
"""Batches before the first measured ones: libraries are loaded, connections are made."""
STEP_BYTES = 2**21
"""Growth of one process that depends on no number of jobs. The heap of a control worker's child reaches its size after
some 60 jobs of its own, at 105,400 KiB, and stayed there for as long as it was watched (100 and 160 jobs)."""
MOST_BYTES = 2**15
"""Growth of a process with its children a job, bytes."""
MOST_FILES = 8
"""Descriptors that a process may have open more than after the first batch: connections come and go."""
PATIENT = {"CELORA_CLAIM_S": "300"}
"""A loaded computer takes longer than the cluster's own 5 s to claim a stage; its message would be sent again."""
RESENT = ("rows of event", "keys celery")
"""What a message leaves that was sent again, because the computer was busy; half of a batch may be."""
UNSTEADY = ("beacon", "worker")
"""Tables whose rows do not belong to jobs."""


@kind("resources", "many small jobs: files, threads, memory, rows, keys and temporary files", minutes=2)
def resources(dice, folder):
    """Each attempt is a batch of jobs; all are compared with the first."""
    del dice  # the jobs are alike; what differs is how many were there before
    scratch = folder / "tmp"
    scratch.mkdir()
    with installation(folder, gpus=2, settings={"TMPDIR": str(scratch), **PATIENT}, step_s=0) as cluster:
        for _ in range(WARM_BATCHES):
            carry(cluster)
        known = left(cluster)
        carry(cluster)
        each = {name: amount - known[name] for name, amount in left(cluster).items()}
        first, own = usage(cluster), set(scratch.iterdir())  # the folder of each process's own multiprocessing
        for number in count(1):
            yield Attempt(
                f"batch {number} of {BATCH}",
                lambda number=number: hold_batch(cluster, scratch, own, first, each, number),
            )


def carry(cluster):
    """Bring a batch of jobs to their end."""
    ids = cluster.submit(BATCH, steps=1)
    cluster.wait_final(ids, WAIT_S)
    assert faults(cluster, ids) == []


def hold_batch(cluster, scratch, own, first, each, number):  # noqa: PLR0917
    """One more batch leaves as many rows and keys as the one before, and no process has grown."""
    before = left(cluster)
    carry(cluster)
    after = left(cluster)
    jobs, wrong = number * BATCH, []
    for name, amount in after.items():
        grown = amount - before[name]
        most = each[name] if name not in RESENT else each[name] + BATCH // 2
        if grown:
            print(f"    {name}: {grown / BATCH:g} a job")
        wrong += [f"{name}: a batch left {grown}, the first one {each[name]}"] if grown > most else []
    for name, now in usage(cluster).items():
        then = first[name]
        grown = now["bytes"] - then["bytes"]
        print(f"    {name}: {grown / jobs / 1024:+.1f} KiB a job, {now['files']} files, {now['threads']} threads")
        too_much = grown > MOST_BYTES * jobs + STEP_BYTES * now["processes"]
        wrong += [f"{name} grew by {grown / jobs:.0f} bytes a job in {jobs} jobs"] if too_much else []
        wrong += (
            [f"{name}: {then['files']} -> {now['files']} files"] if now["files"] > then["files"] + MOST_FILES else []
        )
        wrong += [f"{name}: {then['threads']} -> {now['threads']} threads"] if now["threads"] > then["threads"] else []
    files = [path for path in (cluster.home / "artifacts").rglob("*") if STAGED.match(path.name)]
    wrong += [f"left behind: {path}" for path in (*(set(scratch.iterdir()) - own), *files)]
    assert wrong == [], wrong


def usage(cluster):
    """Descriptors, threads and memory of every process of the installation, the children of a worker together."""
    found = {}
    for name, process in cluster.workers.items():
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        found[name] = {
            "processes": len(tree),
            "files": sum(one.num_fds() for one in tree),
            "threads": sum(one.num_threads() for one in tree),
            "bytes": sum(anonymous_bytes(one.pid) for one in tree),
        }
    return found


def anonymous_bytes(pid):
    """Memory that a process allocated, whether it still shares the pages with its parent or not."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmSwap")))


def left(cluster):
    """Rows by table, and keys of the broker by their first word."""
    with cluster.database.session(Scope.everything) as session:
        rows = {
            f"rows of {table.name}": session.scalar(select(func.count()).select_from(table))
            for table in Table.metadata.sorted_tables
            if table.name not in UNSTEADY
        }
    keys = Counter(key.partition(b"-")[0].decode() for key in broker_keys(cluster))
    return Counter({**rows, **{f"keys {name}": amount for name, amount in keys.items() if name == "celery"}})


def broker_keys(cluster):
    """Every key of the broker."""
    import redis

    with redis.Redis.from_url(cluster.environment["CELORA_BROKER_URL"]) as client:
        return list(client.scan_iter(count=1000))
