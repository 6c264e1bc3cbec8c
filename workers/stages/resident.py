"""Plans how a stage joins the trainer host of its worker, and reads the host's state for the record."""

from collections.abc import Sequence
from typing import Any

from celery.app.task import Context
from sqlalchemy import select

from ...errors import UnavailableError
from ...models.queries import attempt_error
from ...models.scope.scope import Scope
from ...models.tables import Job, Worker
from ...models.tenants.limits import limits_of
from ...models.workers import Resident, obstacle
from ...settings.settings import Settings
from ...tuning.trainer.host_messages import Greeting, Opening
from .. import queues
from ..gpu_option import pinned_device
from ..trainer import hosts
from ..trainer.deaths import HOST_LOST
from ..trainer.environment import HUB_TOKEN, secrets_for
from ..trainer.hosted import HostPlan
from ..trainer.hosts import HostPlace
from .claimed import ClaimedStage


def place_of(settings: Settings, owner: int | None = None) -> HostPlace:
    """Name the place of the trainer host of a worker, by default of the one that this process belongs to."""
    pinned = pinned_device()
    device = f"{pinned[0]}-{pinned[1]}" if pinned else "cpu-0"
    owner = hosts.owner_pid() if owner is None else owner
    return HostPlace(
        socket=settings.home / "run" / f"host-{owner}.sock",
        log=settings.logs / f"trainer-host-{device}.log",
        owner=owner,
        device="cuda" if pinned and pinned[2] else "cpu",
        idle_s=settings.warm_s,
        slots=settings.device_slots(cuda=bool(pinned and pinned[2])),
        log_bytes=settings.service_log_bytes,
    )


def plan_of(stage: ClaimedStage) -> HostPlan | None:
    """Plan how a stage's run joins the host of its worker; None where the worker keeps no host."""
    if not stage.hosts_trainers:
        return None
    opening = Opening(
        tenant=stage.job.tenant,
        exclusive=stage.spec.exclusive or goes_alone(stage),
        between_tenants=stage.settings.share == "all",
        weight=_weight(stage),
        memory_bytes=max(stage.job.memory_bytes or 0, stage.job.least_memory_bytes or 0),
        variables=sorted(secrets_for(stage.settings, stage.spec).keys() - {HUB_TOKEN}),
    )

    def are_ours(runs: Sequence[str]) -> bool:
        names = {run.rpartition(":")[0] for run in runs}
        if not names:
            return True
        try:
            with stage.database.session(Scope.everything) as session:
                found = session.execute(select(Job.id, Job.tenant).where(Job.id.in_(names))).all()
        except UnavailableError:  # the run goes alone, and no text is shared
            return False
        return {job_id for job_id, tenant in found if tenant == stage.job.tenant} == names

    return HostPlan(
        place=place_of(stage.settings),
        opening=opening,
        between_tenants=stage.settings.share == "all",
        are_ours=are_ours,
    )


def _weight(stage: ClaimedStage) -> float:
    """Return the weight of the job's tenant, by which runs of several tenants take turns."""
    with stage.database.session(Scope.everything) as session:
        return limits_of(session, stage.job.tenant).weight


def goes_alone(stage: ClaimedStage) -> bool:
    """Return whether the attempt before ended with a host that held several runs: one attempt then runs alone."""
    with stage.database.session(Scope.everything) as session:
        error = attempt_error(session, stage.job.id, stage.job.attempt - 1)
    return error is not None and error.code == HOST_LOST


def resident_of(settings: Settings, owner: int | None = None) -> Resident | None:
    """Ask the trainer host of a worker for its state, in the record's words; None where there is no host."""
    greeting = hosts.greeting_of(place_of(settings, owner))
    return _recorded(greeting) if greeting is not None else None


def direct_queue_of(stage: ClaimedStage) -> str | None:
    """Return the direct queue of this stage's worker; None where the worker reads none, or keeps no host."""
    if not stage.hosts_trainers or stage.job.gpu_type is None:
        return None
    name = queues.direct_queue(stage.job.gpu_type, stage.claim.worker_id)
    try:
        with stage.database.session(Scope.everything) as session:
            worker = session.get(Worker, stage.claim.worker_id)
    except UnavailableError:  # the end of the stage waits for the record, this preference does not
        return None
    if worker is None or name not in worker.queues or obstacle(worker, stage.settings.foreign_memory_bytes):
        return None
    return name


def keep_here(request: Context, stage: ClaimedStage) -> str | None:
    """Send the next GPU stage of a chain to this worker, whose host has the base; return the queue of the message.

    A worker that does not take the message within seconds loses it to the common queue (``rounds.dispatch.resend``). A
    chain that was sent to this worker alone goes on in the common queue where the worker takes nothing more.
    """
    following = stage.stage.following
    if following is None or not following.on_gpu or not request.chain or stage.job.gpu_type is None:
        return None
    queue = direct_queue_of(stage)
    if queue is None and queues.direct_worker_of(stage.job.queue or ""):
        queue = queues.gpu_queue(stage.job.gpu_type)
    if queue is None:
        return None
    following_message: Any = request.chain[-1]
    following_message["options"]["queue"] = queue
    return queue


def _recorded(greeting: Greeting) -> Resident:
    base = greeting.resident
    held = {} if base is None else {
        "base": base.base,
        "revision": base.revision,
        "quantization": base.quantization,
        "compute_dtype": base.compute_dtype,
        "base_bytes": base.memory_bytes,
        "base_runs": base.runs,
        "loaded_at": base.loaded_at,
    }  # fmt: skip
    return Resident.model_validate(
        {
            "generation": greeting.generation,
            "started_at": greeting.started_at,
            "memory_bytes": greeting.memory_bytes,
            "runs": len(greeting.runs),
            **held,
        }
    )
