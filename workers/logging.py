"""Writes the log of each celora process: one line a record, as text or JSON (``CELORA_LOG_FORMAT``), without secrets.

The context of a line (job, attempt, tenant, stage) is a context variable, so that several jobs in one process keep
their lines apart. A new thread begins without it; ``job_thread`` makes the threads that renew a lease and record
progress with it. A process that runs no job, such as the control worker, names the job in the message; the job's id is
parsed from there.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any

from celery import current_task

from ..settings.redaction import redactor
from ..settings.settings import get_settings

FIELDS = ("worker", "job", "attempt", "tenant", "stage")
STAGES = ("prepare", "train", "evaluate", "publish")
TEXT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"
NAMES_A_JOB = "job %s"
"""Beginning of a message that names its job as the first argument."""

_context: ContextVar[Mapping[str, str | int]] = ContextVar("job", default=MappingProxyType({}))
_process: dict[str, str] = {}


def name_process(name: str) -> None:
    """Set the name of this process in its log lines: a worker's node name, ``beat@host``, ``metrics@host``."""
    _process["worker"] = name


@contextmanager
def about(**facts: str | int) -> Generator[None]:
    """Add facts (job, attempt, tenant, stage) to every log line of this context until the end of the block."""
    token = _context.set({**_context.get(), **facts})
    try:
        yield
    finally:
        _context.reset(token)


def job_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Make a daemon thread whose log lines carry the facts of the caller's context."""
    return threading.Thread(target=copy_context().run, args=(target,), name=name, daemon=True)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Collect the known facts of a log record, in the order of ``FIELDS``.

    The facts in the message count most, then those of the context and of this process, then those of the Celery task
    that runs here or that the record names.
    """
    found = {**_of_task(record), **_context.get(), **_process, **_of_message(record)}
    return {name: found[name] for name in FIELDS if found.get(name) not in (None, "")}


class TextLines(logging.Formatter):
    """Formats a record as one line for people; the job's id is added where the message doesn't name it."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as text, its exception's lines below it."""
        return redactor().text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Format the first line, with the job's id."""
        job = facts_of(record).get("job")
        line = super().formatMessage(record)
        return line if job is None or str(job) in line else f"{line} [job {job}]"


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object: time (UTC), level, logger, message, process, ``FIELDS``, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as a JSON object without line breaks."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **facts_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(redactor().data(line), ensure_ascii=False, default=str)


def set_up(level: int | str = logging.INFO, logfile: str | None = None) -> None:
    """Write this process's log to a file or to standard error, in the installation's format.

    In JSON, an exception that ends the process or one of its threads is logged too, since every line must be JSON.
    """
    target = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.__stderr__)
    target.setFormatter(JsonLines() if in_json() else TextLines())
    logging.basicConfig(level=level, handlers=[target], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    if in_json():
        sys.excepthook = _died
        threading.excepthook = _thread_died


def in_json() -> bool:
    """Return whether this installation's logs are JSON."""
    return get_settings().log_format == "json"


def _of_task(record: logging.LogRecord) -> dict[str, Any]:
    """Return job, stage and attempt of the Celery task that runs here, or that a record of Celery's own names."""
    told: Any = getattr(record, "data", None)
    if isinstance(told, dict) and "id" in told and "name" in told:
        return _of_message_id(str(told["name"]), str(told["id"]))  # pyright: ignore[reportUnknownArgumentType]
    request: Any = current_task.request if current_task else None
    return _of_message_id(str(request.task), str(request.id)) if request is not None and request.id else {}


def _of_message_id(task: str, message_id: str) -> dict[str, Any]:
    """Parse the id of a message: ``JOB.stage.attempt.publication`` of a stage, the job's own id of a submission."""
    stage = task.removeprefix("celora.")
    if stage == "finetune":
        return {"job": message_id}
    parts = message_id.split(".")
    if stage not in STAGES or len(parts) < len(("job", "stage", "attempt")) or not parts[2].isdigit():
        return {}
    return {"job": parts[0], "stage": stage, "attempt": int(parts[2])}


def _of_message(record: logging.LogRecord) -> dict[str, Any]:
    begins = isinstance(record.msg, str) and record.msg.startswith(NAMES_A_JOB)
    return {"job": str(record.args[0])} if begins and isinstance(record.args, tuple) and record.args else {}


def _died(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("the process ends: %s", error, exc_info=(kind, error, traceback))


def _thread_died(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None and not issubclass(what.exc_type, SystemExit):
        name = what.thread.name if what.thread else "?"
        facts = (what.exc_type, what.exc_value, what.exc_traceback)
        logging.getLogger(__name__).critical("the thread %s ends: %s", name, what.exc_value, exc_info=facts)
