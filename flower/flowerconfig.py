"""Configures Flower for celora: `celery -A celora.workers flower --conf=flower/flowerconfig.py`.

Flower sees messages; the record knows jobs. So ``format_task`` describes each of celora's tasks by the record's facts
about its job: tenant, stage, attempt, GPU, step and ending. These are right also where an event of Celery was lost.

Unusual: Flower executes this file and reads every name in it that is also an option of Flower. ``logging`` is such an
option, so this file does not import it. The folder has no ``__init__.py``, which would shadow the flower package.
Every user who has logged in can revoke any task, so Flower listens on this machine only and always asks for a
password; /metrics and /healthcheck answer without one (Flower 2.2 has no option for that).
"""

import re
import secrets
import sys
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import Any

from flower.api import BaseApiHandler
from flower.events import EventsState
from flower.views.tasks import TASK_COLUMNS
from flower.views.workers import WorkerView
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from celora.errors import CeloraError
from celora.models import queries
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Attempt
from celora.models.views import JobView
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
natural_time = True  # relative times save room in the list; a task's page shows the exact time

# The id begins with the job's id, so one column shows both. format_task replaces a task's arguments by words, and the
# words that change come first, since a column shows some 45 letters.
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


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt of a job."""

    stage: Stage
    gpu_type: str | None
    outcome: str | None
    steps_done: int


@dataclass(frozen=True, slots=True)
class _Known:
    """The record's facts about a job: its view, and its attempts by number."""

    job: JobView
    attempts: dict[int, _Try]


class _AwayError(Exception):
    """Raised where the record cannot be read now."""


class _Record:
    """Reads the facts about jobs on a thread, so no page waits long for the record; keeps them for some seconds."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, _Known | None]] = OrderedDict()
        self._away_until = 0.0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="record")

    def job(self, job_id: str, *, ended: bool) -> _Known | None:
        """Return the job's facts; None where there is no such job.

        Args:
            job_id: The job.
            ended: True where Flower knows that the job ended; facts from before the end are then read again.

        Raises:
            _AwayError: The record cannot be read now.
        """
        at = time.monotonic()
        read_at, known = self._known.get(job_id, (-_FRESH_S, None))
        if at - read_at < _FRESH_S and not (ended and known and not known.job.ended):
            return known
        if at < self._away_until:
            raise _AwayError
        asked: Future[_Known | None] = self._reader.submit(_read, job_id)
        try:
            found = asked.result(timeout=_WAIT_S)
        except (TooLate, SQLAlchemyError, CeloraError) as error:
            self._away_until = time.monotonic() + _AWAY_S
            raise _AwayError from error
        self._known[job_id] = (at, found)
        self._known.move_to_end(job_id)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found


def _read(job_id: str) -> _Known | None:
    tries = (Attempt.number, Attempt.stage, Attempt.gpu_type, Attempt.outcome, Attempt.steps_done)
    with get_database().session(Scope.everything) as session:
        job = queries.job_view(session, job_id)
        if job is None:
            return None
        found = session.execute(select(*tries).where(Attempt.job_id == job_id)).all()
    return _Known(job, {number: _Try(*rest) for number, *rest in found})


_record = _Record()


def format_task(task: Any) -> Any:
    """Describe a task by the record's facts about its job; shorten the tasks of other applications to fit a table.

    Args:
        task: A copy of Flower's task, which is changed.
    """
    job_id, stage, attempt, message = _ids(task)
    try:
        known = _record.job(job_id, ended=stage is None and task.state in _OVER) if job_id else None
    except _AwayError:
        _cut(task, unknown=job_id)
        return task
    if known is None:
        _cut(task, unknown=None)
        return task
    job = known.job
    task.name = task.name or (f"celora.{stage}" if stage else "celora.finetune")
    if stage is not None:
        words, ended = _of_stage(known, stage, attempt), _ended(known, stage, attempt, message)
    else:
        ours = task.name == "celora.finetune" and job.ended
        words, ended = _of_job(job), _ENDS[job.status] if ours else None
    words += [f"tenant {job.tenant}", f"job {job_id}", job.name or ""]
    task.args, task.kwargs = job.tenant, " · ".join(filter(None, words))
    if ended and task.state not in _OVER:
        task.state = ended
    return task


def _ids(task: Any) -> tuple[str | None, Stage | None, int, int]:
    """Parse job, stage, attempt and publication out of a task's id, as far as the task belongs to a job."""
    if found := _STAGE.fullmatch(task.uuid or ""):
        return found[1], Stage(found[2]), int(found[3]), int(found[4])
    if task.name in (None, "celora.finetune"):
        return task.uuid, None, 0, 0
    ours = _JOB_ID.search(task.kwargs or "") if task.name.startswith("celora.") else None
    return (ours[1] if ours else None), None, 0, 0


def _of_job(job: JobView) -> list[str]:
    at = f"{job.stage}, attempt {job.attempt}{_gpu(job, job.gpu_type)}"
    if job.status is Status.FAILED:
        return [f"failed ({job.failure.code}) in {at}", _step(job)]
    if job.ended:
        return [f"{job.status}, attempt {job.attempt}{_gpu(job, job.gpu_type)}", _step(job)]
    if job.cancel_requested or job.paused:
        return [f"{'being cancelled' if job.cancel_requested else 'paused'}: {at}", _step(job)]
    if job.status is Status.RUNNING:
        return [at, _step(job)]
    return [f"{job.status}: {at}", job.wait_reason if job.status is Status.PENDING else "", _step(job)]


def _of_stage(known: _Known, stage: Stage, attempt: int) -> list[str]:
    job, tried = known.job, known.attempts.get(attempt)
    gpu = _gpu(job, (tried.gpu_type if tried else None) or job.gpu_type) if stage.on_gpu else ""
    words = [f"{stage.value}, attempt {attempt}{gpu}"]
    if tried is not None and attempt < job.attempt and tried.outcome and tried.stage is stage:
        return [*words, f"{tried.outcome} at step {tried.steps_done}"]
    return [*words, _step(job)] if stage is Stage.TRAIN else words


def _gpu(job: JobView, gpu_type: str | None) -> str:
    if gpu_type:
        return f" on {gpu_type}"
    return "" if job.ended else f" for {'any GPU' if job.gpu == 'auto' else job.gpu}"


def _step(job: JobView) -> str:
    return f"step {job.step} of {job.steps}" if job.steps else ""


def _ended(known: _Known, stage: Stage, attempt: int, message: int) -> str | None:
    """Return the ending of a stage's message by the record; None while its stage may still run."""
    job, tried = known.job, known.attempts.get(attempt)
    latest = attempt == job.attempt
    reached = job.stage if latest else tried.stage if tried is not None else stage
    if _STAGES.index(reached) > _STAGES.index(stage):
        return "SUCCESS"
    if latest and not job.ended:
        return "REVOKED" if stage is reached and message < job.publication else None
    return _ENDS.get((tried.outcome if tried is not None else None) or "", "REVOKED")


def _cut(task: Any, *, unknown: str | None) -> None:
    """Shorten the arguments of a task; ``unknown`` is its job where the record cannot be read now."""
    if unknown:
        task.kwargs = f"job {unknown} · the record cannot be read now"
    for name in ("args", "kwargs", "result"):
        text = getattr(task, name, None)
        if isinstance(text, str) and len(text) > _LONGEST:
            setattr(task, name, text[:_LONGEST] + "…")


_take, _refuse, _page = EventsState.event, BaseApiHandler.write_error, WorkerView.render_string
_NOTE = b"""
      <p class="text-muted mt-2 mb-0" id="celora-refuses">Workers of celora refuse the remote commands that would change
      them (shut down, restart, grow, shrink, autoscale, limits, consumers), because the record would not know. So there
      are no buttons for them. Use <code>celora drain</code>, <code>celora cordon</code> or a signal to the process.
      Revoke on a task's page cancels its job.</p>"""
_HEADING = re.compile(rb'<h1 id="workername">.*?</h1>', re.DOTALL)


def _masked(state: Any, event: dict[str, Any]) -> Any:
    """Mask the secrets of an event; a ``finetune`` message keeps its id only, because its fields come from outside."""
    if event.get("name") == "celora.finetune":
        event = {**event, "args": "()", "kwargs": f"{{'job_id': '{event.get('uuid')}'}}"}
    told = {name: event[name] for name in _TOLD if isinstance(event.get(name), str)}
    return _take(state, {**event, **redactor().data(told)})


def _ask(handler: Any, status_code: int, **facts: Any) -> Any:
    """Request the login with a 401 answer, where Flower 2.2 only refuses.

    A browser sends a login unasked only below the page where it was entered. So the buttons of a task's page that was
    opened by a link would fail silently.
    """
    if status_code == 401:  # noqa: PLR2004  (HTTP's own)
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    return _refuse(handler, status_code, **facts)


def _without_buttons(view: Any, template: str, **facts: Any) -> bytes:
    """Render a worker's page without the buttons of commands that workers refuse, and with the reason."""
    if template != "worker.html":
        return _page(view, template, **facts)
    shown: bytes = _page(view, template, **{**facts, "read_only": True})
    return _HEADING.sub(lambda found: found[0] + _NOTE, shown, count=1)


EventsState.event, BaseApiHandler.write_error, WorkerView.render_string = _masked, _ask, _without_buttons
