"""The queue's rules under a storm: tenants with classes, limits and budgets, urgent jobs in the middle, and the books.

Three tenants share the jobs. ``gold`` may submit urgent jobs, which preempt others; ``metered`` has background jobs, a
few jobs at once and its minutes of the month; ``thrifty`` has jobs whose budget ends in the middle of their training,
so that they pause and go on when they get more.
"""

from chaos.cluster import FINAL
from sqlalchemy import func, select

from celora.models.jobs.limits import BUDGET
from celora.models.scope.scope import Scope
from celora.models.tables import Charge, Event, Hold, Job, LedgerMonth
from celora.models.tenants.limits import set_limits
from celora.models.tenants.use import Use

PREEMPTING = {"CELORA_PREEMPTION": "true", "CELORA_PREEMPT_AGAIN_MINUTES": "0.05", "CELORA_MAX_ATTEMPTS": "30"}
PRICE_PER_S = 0.05 / 3600
"""The price of a CPU worker in the catalogue."""
THRIFTY_S = 4.0
"""Seconds of training that the first budget of a thrifty job pays for."""
COUNTED = ("preempt_requested", "budget_reached")


def set_tenants(cluster):
    """Give the tenants their limits."""
    with cluster.database.transaction(Scope.everything) as session:
        set_limits(session, "gold", {"classes": "urgent,normal", "budget": 1000.0, "weight": 2.0})
        set_limits(session, "metered", {"gpu_minutes": 6000.0, "max_jobs": 5})
        set_limits(session, "thrifty", {"max_priority": 5})


def submit_mixed(cluster, count, **job):
    """Submit so many jobs of the three tenants; a tenth of them is for ``submit_urgent``."""
    urgent, thrifty = max(1, count // 10), max(1, count // 10)
    metered = (count - urgent - thrifty) // 2
    ids = cluster.submit(metered, tenant="metered", job_class="background", budget=100.0, **job)
    ids += cluster.submit(thrifty, tenant="thrifty", budget=THRIFTY_S * PRICE_PER_S, **job)
    return ids + cluster.submit(count - urgent - thrifty - metered, tenant="gold", priority=1, **job)


def submit_urgent(cluster, count, **job):
    """Submit the urgent jobs of the same count."""
    return cluster.submit(max(1, count // 10), tenant="gold", job_class="urgent", **job)


def wait_preempting(cluster):
    """Wait until an urgent job has asked for the slot of another one.

    A kill frees slots more often than a round decides, most of all on a busy machine; so none falls in between.
    """

    def asked():
        with cluster.database.session(Scope.everything) as session:
            return session.scalar(select(func.count()).where(Event.kind == "preempt_requested")) > 0

    cluster.wait(asked, 120, "an urgent job asks for the slot of another one")


def wait_final(cluster, ids, timeout_s):
    """Wait until every job has ended; a job that its budget paused gets a larger one."""

    def ended():
        jobs = cluster.jobs(ids)
        for job in jobs:
            if job["paused"] and job["pause_cause"] == BUDGET:
                cluster.command("celora", "resume", job["id"], "--budget", "100")
        return len(jobs) == len(ids) and all(job["status"] in FINAL for job in jobs)

    cluster.wait(ended, timeout_s, "every job has ended")
    return cluster.jobs(ids)


def books(cluster):
    """What is held and spent by the ledger, what the jobs and their attempts were charged, and what the queue did."""
    with cluster.database.session(Scope.everything) as session:
        held = session.execute(select(func.sum(LedgerMonth.held_ms), func.sum(LedgerMonth.held_micros))).one()
        spent = session.execute(select(func.sum(LedgerMonth.spent_ms), func.sum(LedgerMonth.spent_micros))).one()
        charged = session.execute(select(func.sum(Charge.device_ms), func.sum(Charge.cost_micros))).one()
        jobs = [Use.of(job.gpu_seconds, job.cost) for job in session.scalars(select(Job))]
        holds = session.scalar(select(func.count()).select_from(Hold))
        counts = {kind: session.scalar(select(func.count()).where(Event.kind == kind)) for kind in COUNTED}
    by_jobs = (sum(use.device_ms for use in jobs), sum(use.cost_micros for use in jobs))
    return {"holds": holds, "held": tuple(map(int, held)), "spent": tuple(map(int, spent)),
            "charged": tuple(map(int, charged)), "by_jobs": by_jobs, **counts}  # fmt: skip


def faults_of_books(found):
    """What is wrong about the books once every job has ended."""
    wrong = []
    if (found["holds"], found["held"]) != (0, (0, 0)):
        wrong.append(f"{found['holds']} holds are left, of {found['held']} ms and micros")
    if not found["spent"] == found["charged"] == found["by_jobs"]:
        wrong.append(f"the ledger has {found['spent']}, the attempts {found['charged']}, the jobs {found['by_jobs']}")
    if found["spent"][0] <= 0:
        wrong.append("nothing was charged")
    return wrong
