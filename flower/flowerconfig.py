"""How Flower runs beside celora: `celery -A celora.workers flower --conf=flower/flowerconfig.py`.

Flower sees messages; the record knows jobs. So ``format_task`` says of each of celora's tasks, in words, what the
record knows of its job: tenant, stage, attempt, GPU, step, and how it ended, also where an event was lost on its way.

Unusual: Flower executes this file and takes every name in it that is also one of its options (so there is no ``import
logging`` here: that is one). The folder has no ``__init__.py``, with one it would shadow the flower package itself.
Whoever is in can revoke any task, so Flower listens on this machine only and always asks for a password; /metrics and
/healthcheck answer without one (Flower 2.2 has no option for it).
"""

import re
import secrets
import sys
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import Any

from flower.api import BaseApiHandler
from flower.events import EventsState
from flower.views.tasks import TASK_COLUMNS
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from celora.models.database import get_database
from celora.models.states import Stage, Status
from celora.models.tables import Attempt, Job
from celora.settings.errors import CeloraError
from celora.settings.production import require_login
from celora.settings.redaction import redactor
from celora.settings.settings import get_settings

_settings = get_settings()
require_login(_settings, _settings.flower_auth)
_state = _settings.home / "flower"
_state.mkdir(parents=True, exist_ok=True)
_login = _settings.flower_auth
if not _login:
    _login = f"celora:{secrets.token_urlsafe(12)}"
    print(f"flower: CELORA_FLOWER_AUTH is not set; this time the login is {_login}", file=sys.stderr)  # noqa: T201

address = "127.0.0.1"
basic_auth = [_login]
read_only = _settings.flower_read_only

# Without its state on disk, Flower forgets the name of every task that was running when it restarted.
persistent = True
db = str(_state / "state")
state_save_interval = 10_000
max_tasks = 100_000

# A worker that loads a model answers late; the default of one second calls it missing.
inspect_timeout = 5_000.0
purge_offline_workers = 86_400

# A stage runs for minutes to a day, and the default buckets end at ten seconds.
task_runtime_metric_buckets = [1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0]
natural_time = True  # in the list, where the exact one needs the room; a task's page has it

# The id begins with the job's, so it stands for both; a task's arguments are replaced by words (see format_task), the
# ones that change first: a column shows some 45 letters.
tasks_columns = "name,args,kwargs,state,worker,received,runtime,uuid"
TASK_COLUMNS |= {"name": "Task", "args": "Tenant", "kwargs": "Job", "uuid": "Id"}

_LONGEST = 160  # characters of another application's arguments that fit a table
_FRESH_S, _AWAY_S, _WAIT_S, _KEPT = 2.0, 5.0, 0.5, 2_000
_STAGE = re.compile(r"([\w-]{1,64})\.(prepare|train|evaluate|publish)\.(\d+)\.(\d+)")
_JOB_ID = re.compile(r"'job_id': '([\w-]{1,64})'")
_ENDS = {
    "completed": "SUCCESS",
    "failed": "FAILURE",
    "lost": "FAILURE",
    "cancelled": "REVOKED",
    "released": "RETRY",
}
_OVER = ("SUCCESS", "FAILURE", "REVOKED")
_STAGES = list(Stage)
_TOLD = ("args", "kwargs", "result", "exception", "traceback")


class _Record:
    """What the record says of a job, some seconds old at most, read on a thread: a page never waits long for it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, dict[str, Any] | None]] = OrderedDict()
        self._away_until = 0.0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="record")

    def job(self, job_id: str, *, ended: bool) -> dict[str, Any] | None:
        """The job's facts; None where there is no such job, ``{}`` where the record cannot be read now.

        Args:
            job_id: Which job.
            ended: Whether it is known to be over: then nothing older is told.
        """
        at = time.monotonic()
        read_at, known = self._known.get(job_id, (-_FRESH_S, None))
        if at - read_at < _FRESH_S and not (ended and known and not known["status"].final):
            return known
        if at < self._away_until:
            return {}
        asked: Future[dict[str, Any] | None] = self._reader.submit(_read, job_id)
        try:
            found = asked.result(timeout=_WAIT_S)
        except (TooLate, SQLAlchemyError, CeloraError):
            self._away_until = time.monotonic() + _AWAY_S
            return {}
        self._known[job_id] = (at, found)
        self._known.move_to_end(job_id)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found


def _read(job_id: str) -> dict[str, Any] | None:
    columns = (
        Job.tenant, Job.name, Job.status, Job.stage, Job.wait_reason, Job.paused, Job.cancel_requested, Job.attempt,
        Job.publication, Job.gpu, Job.gpu_type, Job.step, Job.steps, Job.error,
    )  # fmt: skip
    tries = (Attempt.number, Attempt.stage, Attempt.gpu_type, Attempt.outcome, Attempt.steps_done)
    with get_database().session() as session:
        row = session.execute(select(*columns).where(Job.id == job_id)).one_or_none()
        if row is None:
            return None
        found = session.execute(select(*tries).where(Attempt.job_id == job_id)).all()
    return {**row._asdict(), "attempts": {one.number: one._asdict() for one in found}}


_record = _Record()


def format_task(task: Any) -> Any:
    """Say in words what the record knows of the task's job; of other applications' tasks, what fits a table.

    Args:
        task: A copy of Flower's own, to be changed.
    """
    job_id, stage, attempt, message = _ids(task)
    job = _record.job(job_id, ended=stage is None and task.state in _OVER) if job_id else None
    if not job:
        _cut(task, told=job_id if job is not None else None)
        return task
    task.name = task.name or (f"celora.{stage}" if stage else "celora.finetune")
    if stage is not None:
        words, ended = _of_stage(job, stage, attempt), _ended(job, stage, attempt, message)
    else:
        ours = task.name == "celora.finetune" and job["status"].final
        words, ended = _of_job(job), _ENDS[job["status"].value] if ours else None
    words += [f"tenant {job['tenant']}", f"job {job_id}", job["name"] or ""]
    task.args, task.kwargs = job["tenant"], " · ".join(filter(None, words))
    if ended and task.state not in _OVER:
        task.state = ended
    return task


def _ids(task: Any) -> tuple[str | None, Stage | None, int, int]:
    """Job, stage, attempt and number of the message, as far as the task is one of a job's."""
    if found := _STAGE.fullmatch(task.uuid or ""):
        return found[1], Stage(found[2]), int(found[3]), int(found[4])
    if task.name in (None, "celora.finetune"):
        return task.uuid, None, 0, 0
    ours = _JOB_ID.search(task.kwargs or "") if task.name.startswith("celora.") else None
    return (ours[1] if ours else None), None, 0, 0


def _of_job(job: dict[str, Any]) -> list[str]:
    status, at = job["status"], f"{job['stage'].value}, attempt {job['attempt']}{_gpu(job, job['gpu_type'])}"
    if status is Status.FAILED:
        return [f"failed ({(job['error'] or {}).get('code', 'internal')}) in {at}", _step(job)]
    if status.final:
        return [f"{status.value}, attempt {job['attempt']}{_gpu(job, job['gpu_type'])}", _step(job)]
    if job["cancel_requested"] or job["paused"]:
        return [f"{'being cancelled' if job['cancel_requested'] else 'paused'}: {at}", _step(job)]
    if status is Status.RUNNING:
        return [at, _step(job)]
    return [f"{status.value}: {at}", job["wait_reason"] if status is Status.PENDING else "", _step(job)]


def _of_stage(job: dict[str, Any], stage: Stage, attempt: int) -> list[str]:
    tried = job["attempts"].get(attempt, {})
    gpu = _gpu(job, tried.get("gpu_type") or job["gpu_type"]) if stage.on_gpu else ""
    words = [f"{stage.value}, attempt {attempt}{gpu}"]
    if attempt < job["attempt"] and tried.get("outcome") and tried["stage"] is stage:
        return [*words, f"{tried['outcome']} at step {tried['steps_done']}"]
    return [*words, _step(job)] if stage is Stage.TRAIN else words


def _gpu(job: dict[str, Any], gpu_type: str | None) -> str:
    if gpu_type:
        return f" on {gpu_type}"
    return "" if job["status"].final else f" for {'any GPU' if job['gpu'] == 'auto' else job['gpu']}"


def _step(job: dict[str, Any]) -> str:
    return f"step {job['step']} of {job['steps']}" if job["steps"] else ""


def _ended(job: dict[str, Any], stage: Stage, attempt: int, message: int) -> str | None:
    """How a stage's message ended by the record; None while it may still be at work."""
    tried, latest = job["attempts"].get(attempt, {}), attempt == job["attempt"]
    reached = job["stage"] if latest else tried.get("stage", stage)
    if _STAGES.index(reached) > _STAGES.index(stage):
        return "SUCCESS"
    if latest and not job["status"].final:
        return "REVOKED" if stage is reached and message < job["publication"] else None
    return _ENDS.get(tried.get("outcome") or "", "REVOKED")


def _cut(task: Any, told: str | None) -> None:
    """No words of the record for this one; ``told`` is its job where the record cannot be read now."""
    if told:
        task.kwargs = f"job {told} · the record cannot be read now"
    for name in ("args", "kwargs", "result"):
        text = getattr(task, name, None)
        if isinstance(text, str) and len(text) > _LONGEST:
            setattr(task, name, text[:_LONGEST] + "…")


_take, _refuse = EventsState.event, BaseApiHandler.write_error


def _masked(state: Any, event: dict[str, Any]) -> Any:
    """Keep no secret: of a ``finetune`` message its id alone (its fields are a stranger's), of others no likeness."""
    if event.get("name") == "celora.finetune":
        event = {**event, "args": "()", "kwargs": f"{{'job_id': '{event.get('uuid')}'}}"}
    told = {name: event[name] for name in _TOLD if isinstance(event.get(name), str)}
    return _take(state, {**event, **redactor().data(told)})


def _ask(handler: Any, status_code: int, **facts: Any) -> Any:
    """Ask for the login where Flower 2.2 only refuses.

    A browser sends it unasked only below the page where it was given, so the buttons of a task's page that somebody
    came to by a link would fail without a word.
    """
    if status_code == 401:  # noqa: PLR2004  (HTTP's own)
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    return _refuse(handler, status_code, **facts)


EventsState.event, BaseApiHandler.write_error = _masked, _ask
