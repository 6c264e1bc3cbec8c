"""How each process of ours writes its log: a record a line, as text or JSON (``CELORA_LOG_FORMAT``), without secrets.

Unusual: what a line is about (job, attempt, tenant, stage) is kept for the whole process and in no contextvar, because
a process carries one job at a time, and the threads that hold its lease and write its progress speak of the same job. A
process that carries none, such as the control worker, names the job in the message, and it is read from there.
"""

import json
import logging
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from celery import current_task

from ..settings.redaction import redactor
from ..settings.settings import get_settings

FIELDS = ("worker", "job", "attempt", "tenant", "stage")
STAGES = ("prepare", "train", "evaluate", "publish")
TEXT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"
NAMES_A_JOB = "job %s"
"""How a message of ours begins that names the job it is about, as its first argument."""

_carried: dict[str, Any] = {}
_process: dict[str, str] = {}


def name_process(name: str) -> None:
    """Say who writes: a worker's node name, ``beat@host``, ``metrics@host``."""
    _process["worker"] = name


@contextmanager
def about(**facts: Any) -> Generator[None]:
    """Until the end of the block every line of this process is about these: job, attempt, tenant, stage."""
    before = dict(_carried)
    _carried.update(facts)
    try:
        yield
    finally:
        _carried.clear()
        _carried.update(before)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record is about, as far as it is known; in the order of ``FIELDS``.

    The message's own words count most, then what this process carries, then the Celery task that runs or is spoken of.
    """
    found = {**_of_task(record), **_carried, **_process, **_of_message(record)}
    return {name: found[name] for name in FIELDS if found.get(name) not in (None, "")}


class TextLines(logging.Formatter):
    """One line for people; the job's id is added where the message doesn't name it."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, its exception's lines below it."""
        return redactor().text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """The first line, in whose message the job stands."""
        job = facts_of(record).get("job")
        line = super().formatMessage(record)
        return line if job is None or str(job) in line else f"{line} [job {job}]"


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, process, ``FIELDS``, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object without line breaks."""
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

    Whatever ends the process or one of its threads is a record of the log, too; in JSON nothing else must be in there.
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
    """Whether this installation's logs are JSON."""
    return get_settings().log_format == "json"


def _of_task(record: logging.LogRecord) -> dict[str, Any]:
    """Job, stage and attempt of the Celery task that runs here, or that one of Celery's own records is about."""
    told: Any = getattr(record, "data", None)
    if isinstance(told, dict) and "id" in told and "name" in told:
        return _of_message_id(str(told["name"]), str(told["id"]))  # pyright: ignore[reportUnknownArgumentType]
    request: Any = current_task.request if current_task else None
    return _of_message_id(str(request.task), str(request.id)) if request is not None and request.id else {}


def _of_message_id(task: str, message_id: str) -> dict[str, Any]:
    """A stage's message is called ``JOB.stage.attempt.publication``, a submission as its job."""
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
