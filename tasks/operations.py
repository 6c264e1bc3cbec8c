"""What an operator does to jobs and workers: pause, resume and retry; drain, cordon and uncordon.

The record is changed first, and is the truth; the message after it only saves the wait for a heartbeat or a tick. So
each works without a broker and with the worker away.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import datasets, history, transitions
from ..models.database import get_database
from ..models.registry import obstacle
from ..models.spec import JobSpec
from ..models.tables import Job, Worker
from ..settings.errors import NotFoundError, SettingsError
from ..settings.settings import get_settings
from ..workers import queues, sending
from ..workers.carry import poke
from ..workers.celery import app
from .submission import check_id, check_spec, new_job_id

CONTROL = "control"


def pause(job_id: str) -> str:
    """Keep a job off the GPU until ``resume``; a running one checkpoints first.

    Args:
        job_id: Its id, or the beginning of it.

    Returns:
        ``paused``, ``pausing`` (its worker stops it at the next step), ``cancelling``, or ``final`` (it had ended).

    Raises:
        NotFoundError: There is no such job.
    """
    with get_database().transaction() as session:
        answer = transitions.request_pause(session, history.find(session, job_id).id)
    if answer == "paused":
        poke()  # it may have held a slot
    return answer


def resume(job_id: str) -> bool:
    """Let a paused job go on, at the front of its queue.

    Returns:
        Whether there was a pause to end.

    Raises:
        NotFoundError: There is no such job.
    """
    with get_database().transaction() as session:
        ended = transitions.resume(session, history.find(session, job_id).id)
    if ended:
        poke()
    return ended


def retry(job_id: str, changes: Mapping[str, Any] | None = None, *, new_id: str | None = None) -> str:
    """Make a new job of one that failed or was cancelled, from its last good checkpoint.

    Args:
        job_id: The job that ended, or the beginning of its id.
        changes: Fields of the spec that are to be different; of another value, those that change what is trained make
            the new job start afresh.
        new_id: The new job's id; a UUIDv7 unless given.

    Returns:
        The new job's id.

    Raises:
        NotFoundError: There is no such job, or a dataset that is named is not there.
        SettingsError, DataError, BaseModelError: The old job did not fail, or the new spec is refused.
    """
    chosen = check_id(new_id or new_job_id())
    with get_database().transaction() as session:
        old = history.find(session, job_id)
        job = transitions.retry(session, old.id, chosen, changes=_changes(session, old, changes or {}))
        datasets.saw(session, chosen, datasets.resolved(session, JobSpec.model_validate(job.spec))[1])
        message = dict(job.spec)
    _send(chosen, message)
    return chosen


def drain(worker: str) -> str:
    """Ask a worker to hand its job back, after a checkpoint, and to leave with exit code 0.

    Args:
        worker: Its name, or the beginning of it.

    Returns:
        ``draining``; ``offline`` where it is not there to be asked.

    Raises:
        NotFoundError: There is no such worker.
    """
    with get_database().transaction() as session:
        row = find_worker(session, worker)
        if row.status == "offline":
            return "offline"
        transitions.ask_drain(session, row.id)
    _tell(row.id)
    return "draining"


def cordon(worker: str, note: str = "") -> str:
    """Give a worker no more work until ``uncordon``, also after its restart; what it runs it ends.

    Returns:
        The worker's whole name.

    Raises:
        NotFoundError: There is no such worker.
        SettingsError: It is a control worker, whose bookkeeping everything waits for.
    """
    with get_database().transaction() as session:
        row = find_worker(session, worker)
        if row.kind == CONTROL:
            raise SettingsError(
                f"{row.id} runs no jobs; it does the bookkeeping that every job waits for.",
                hint=f"To stop it for good: celora drain {row.id}",
            )
        transitions.cordon(session, row.id, note)
    _tell(row.id)
    return row.id


def uncordon(worker: str) -> str:
    """Give a worker work again; an unhealthy one is trusted once more.

    Returns:
        What is still in its way, in words; empty if nothing is.

    Raises:
        NotFoundError: There is no such worker.
    """
    with get_database().transaction() as session:
        row = find_worker(session, worker)
        transitions.uncordon(session, row.id)
        session.refresh(row)
        left = obstacle(row, get_settings().foreign_memory_bytes)
    _tell(row.id)
    poke()
    return left


def find_worker(session: Session, name: str) -> Worker:
    """The worker of that name, or the one whose name begins so.

    Raises:
        NotFoundError: There is none, or more than one; the message says which there are.
    """
    names = sorted(session.scalars(select(Worker.id)))
    alike = [name] if name in names else [known for known in names if name and known.startswith(name)]
    if len(alike) == 1:
        return session.get_one(Worker, alike[0])
    if alike:
        told = f"{name} is the beginning of more than one worker: {', '.join(alike)}."
        raise NotFoundError(told, hint="Give more of the name.")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    told = f"; did you mean {' or '.join(near)}?" if near else "; none has registered."
    raise NotFoundError(f"there is no worker {name}{told}", hint="See `celora workers`.")


def _changes(session: Session, old: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that become different, checked as a submission's are; a dataset's name as its version's place."""
    if not given:
        return {}
    if given.get("tenant", old.tenant) != old.tenant:
        raise SettingsError(f"job {old.id} is tenant {old.tenant}'s; a retry is, too.", hint="Submit it anew.")
    spec = check_spec({**old.spec, **given, "tenant": old.tenant}, get_settings())
    placed = datasets.resolved(session, spec)[0].model_dump(mode="json")
    before = JobSpec.model_validate(old.spec).model_dump(mode="json")
    return {name: placed[name] for name in given if placed[name] != before[name]}


def _send(job_id: str, message: dict[str, Any]) -> None:
    """The message of a submission, by which Celery and Flower know the job; unheard, the tick sends the job."""

    def send() -> None:
        app.send_task(
            "celora.finetune", kwargs=message, task_id=job_id, queue=queues.ENTRY, retry=False, ignore_result=True
        )

    sending.attempt(send, f"job {job_id}")


def _tell(worker_id: str) -> None:
    """Have a worker look at its row now; unheard, it does at its next heartbeat."""
    sending.attempt(lambda: app.control.broadcast("look", destination=[worker_id]), f"a look of {worker_id}")
