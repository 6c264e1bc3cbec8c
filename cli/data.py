"""``celora check`` and ``celora receipt``: what is in a dataset, and what training on it would need.

A check runs the code of a job's ``prepare`` in the same trainer program with the same limits, and submits and keeps
nothing.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import datasets as record_of
from ..models.spec import JobSpec, parse_spec
from ..settings.errors import DataError, NotFoundError, of_code
from ..settings.secrets import Secrets
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..workers.parts import require_training
from ..workers.places import Places
from .jobs import JobId, summary
from .options import command, fields_of
from .output import Json, console, print_json, progress_console
from .receipt import show
from .record import record
from .submit import is_file

DATA_CODES = ("bad_data", "data_limit")
"""Errors that are the data's: a check ends in 1 then, and with the error's own code otherwise."""

Receipt = dict[str, Any]


def check_data(words: list[str] | None, *, as_json: bool, **options: str | list[str] | None) -> None:
    """Check a dataset, and estimate what training on it needs; nothing is submitted.

    Exit code 0: it can be trained on (warnings may be named). 1: it can't, and every kind of bad line is shown.

    Example: `celora check train.jsonl --base-model smollm2-135m-instruct`

    Example: `celora check train.jsonl --base-model smollm2-135m-instruct --eval-dataset held_out.jsonl --rank 8 --json`
    """
    fields = fields_of(words or [], options, loose="dataset")
    receipt, error = _checked(_placed(parse_spec(fields)))
    if as_json:
        print_json({**receipt, "error": error})
    elif receipt.get("version"):
        show(receipt, console())
    if error:
        typer.echo(f"celora: {_sentence(receipt, error)}", err=True)
        raise typer.Exit(1)


def _sentence(receipt: Receipt, error: dict[str, str]) -> str:
    """What is wrong; where the receipt has shown every bad line, only that there are some."""
    bad = {file["name"]: file["bad"]["total"] for file in receipt.get("files", []) if file["bad"]["total"]}
    if bad:
        lines = ", ".join(f"{total} bad line{'s' * (total > 1)} in {name}" for name, total in bad.items())
        return f"this data can't be trained on: {lines}. Mend them and check again."
    return f"{error['message']} {error['hint']}".rstrip()


def receipt(job_id: JobId, *, as_json: Json = False) -> None:
    """Show what was found out about a job's data, also where it was refused.

    Example: `celora receipt 019a…`
    """
    job = summary(job_id)
    found = _kept(job)
    if as_json:
        print_json(found)
    else:
        show(found, console())


def _kept(job: dict[str, Any]) -> Receipt:
    """A job's receipt: its latest attempt's that has one.

    Raises:
        NotFoundError: Its data was not read yet.
    """
    artifacts = Artifacts(get_settings().artifacts)
    for attempt in range(int(job["attempt"]), 0, -1):
        uri = artifacts.uri("jobs", job["id"], f"attempt-{attempt}", "receipt.json")
        there = artifacts.local_path(uri)
        if there is None and artifacts.exists(uri):
            there = get_settings().scratch / job["id"] / "pulled" / "receipt.json"
            artifacts.get_file(uri, there)
        if there is not None and there.is_file():
            return json.loads(there.read_text(encoding="utf-8"))
    raise NotFoundError(
        f"job {job['id']} has no receipt yet; it is {job['status']}.", hint=f"See `celora status {job['id']}`."
    )


def _placed(spec: JobSpec) -> JobSpec:
    """The spec with every file's whole path, and every dataset's name replaced by where it lies.

    Raises:
        DataError: A file is missing.
        NotFoundError: There is no dataset of that name.
    """
    given = spec.eval_dataset
    named = {name: _path(source) for name, source in given.items()} if isinstance(given, dict) else given
    held_out = _path(named) if isinstance(named, str) else named
    placed = spec.model_copy(update={"dataset": _path(spec.dataset), "eval_dataset": held_out})
    if not any(record_of.Reference.parse(source) for source in _sources(placed)):
        return placed
    with record().session() as session:
        return record_of.resolved(session, placed)[0]


def _path(source: str) -> str:
    if not is_file(source):
        return source
    if not Path(source).exists():
        raise DataError(f"the dataset {source} is no file here.", hint="Check the path.")
    return str(Path(source).absolute())


def _sources(spec: JobSpec) -> Iterator[str]:
    yield spec.dataset
    given = spec.eval_dataset
    yield from given.values() if isinstance(given, dict) else filter(None, [given])


def _checked(spec: JobSpec) -> tuple[Receipt, dict[str, str] | None]:
    """The receipt, and what is wrong with the data, if anything.

    Raises:
        CeloraError: Something else than the data is wrong.
    """
    from ..tasks import submission  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..tasks.prepare import request_of  # noqa: PLC0415  (the same)
    from ..workers.supervisor import TrainerError, run_once  # noqa: PLC0415  (the same)

    settings = get_settings()
    spec = submission.check_spec(spec.model_dump(exclude_unset=True), settings)
    job = f"check-{uuid.uuid4().hex[:12]}"
    places, told = Places(settings, job, 1), _Told()
    try:
        request = request_of(spec, places, settings, job=job, attempt=1, op="check")
        log, secrets = settings.logs / "check.log", Secrets(settings.home).environment("HF_TOKEN")
        require_training()
        result = run_once(request, told, log=log, environment=secrets)
    except TrainerError as error:
        if error.error["code"] not in DATA_CODES:
            raise of_code(error.error["code"])(error.message, hint=error.hint) from None
        return told.receipt, {name: error.error[name] for name in ("code", "message", "hint")}
    except DataError as error:
        return told.receipt, {"code": error.code, "message": error.message, "hint": error.hint}
    finally:
        places.clear()
        places.scratch.parent.rmdir()
    return result["receipt"], None


class _Told:
    """Shows what the trainer does, each phase once, and keeps the receipt of data that is refused."""

    def __init__(self) -> None:
        self.receipt: Receipt = {"ok": False}
        self._shown = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "receipt":
            self.receipt = event["receipt"]
        elif event["event"] == "phase" and event["phase"] != self._shown:
            self._shown = str(event["phase"])
            progress_console().print(self._shown, style="dim", markup=False)


check = command(
    check_data,
    {
        "words": (
            Annotated[
                list[str] | None, typer.Argument(metavar="DATA", help="The training rows, or a job file (.yaml).")
            ],
            None,
        ),
        "as_json": (Json, False),
    },
)
