"""Defines ``celora check`` and ``celora receipt``, which show a dataset's content and what training on it would need.

A check runs the code of a job's ``prepare`` in the same trainer program with the same limits, and submits and keeps
nothing. With ``--server`` the file is sent there, and a worker of the server checks it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError, NotFoundError, SettingsError
from ..models import datasets as record_of
from ..models.scope.scope import Scope
from ..models.spec import JobSpec, parse_spec
from ..models.views import JobDetail
from ..settings.secrets import Secrets
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning.files.suffixes import is_several
from .access import Server, connect
from .jobs import JobId
from .local_jobs import detail
from .open_record import record
from .options import Fields, command, fields_of
from .output import Json, console, print_json, progress_console, say
from .receipt import show
from .rows_here import is_file

Receipt = dict[str, Any]
Fault = dict[str, str]
"""Code, message and hint of a fault of the data."""


def check_data(
    words: list[str] | None, *, as_json: bool, server: str | None, keep: bool, **options: str | list[str] | None
) -> None:
    """Check a dataset, and estimate what training on it needs; nothing is submitted.

    Exit code 0: it can be trained on (warnings may be named; of preference rows, one names the method). 1: it can't,
    and every kind of bad line is shown.

    With --server the file is sent there, checked by a worker of the server, and deleted there afterwards.

    Example: `celora check train.jsonl --base-model smollm2-135m-instruct`

    Example: `celora check train.jsonl --base-model smollm2-135m-instruct --eval-dataset held_out.jsonl --rank 8 --json`
    """
    fields = fields_of(words or [], options, loose="dataset")
    receipt, error = _checked_at(server, fields, keep=keep) if server else _checked_here(fields, keep=keep)
    if as_json:
        print_json({**receipt, "error": error})
    elif receipt.get("version"):
        show(receipt, console())
    if error:
        say(f"celora: {_sentence(receipt, error)}", err=True)
        raise typer.Exit(1)


def _checked_at(server: str, fields: Fields, *, keep: bool) -> tuple[Receipt, Fault | None]:
    from .remote_check import check_at  # noqa: PLC0415  (most commands call no server)

    parse_spec(fields)
    with connect(server) as connection:
        return check_at(connection, fields, keep=keep)


def _checked_here(fields: Fields, *, keep: bool) -> tuple[Receipt, Fault | None]:
    if keep:
        raise SettingsError("--keep is for a server: a check here keeps nothing.", hint="Leave it out.")
    return checked(*_placed(parse_spec(fields)))


def _sentence(receipt: Receipt, error: Fault) -> str:
    """Describe the fault of the data; where the receipt has shown every bad line, only the number of bad lines."""
    bad = {file["name"]: file["bad"]["total"] for file in receipt.get("files", []) if file["bad"]["total"]}
    if bad:
        lines = ", ".join(f"{total} bad line{'s' * (total > 1)} in {name}" for name, total in bad.items())
        return f"this data can't be trained on: {lines}. Mend them and check again."
    return f"{error['message']} {error['hint']}".rstrip()


def receipt(job_id: JobId, *, as_json: Json = False) -> None:
    """Show what was found out about a job's data, also where it was refused.

    Example: `celora receipt 019a…`
    """
    job = detail(job_id)
    found = _kept(job)
    if as_json:
        print_json(found)
    else:
        show(found, console())


def _kept(job: JobDetail) -> Receipt:
    """Read the receipt of a job's latest attempt that has one.

    Raises:
        NotFoundError: The job's data was not read yet.
    """
    artifacts = Artifacts(get_settings().artifacts)
    for attempt in range(int(job.attempt), 0, -1):
        uri = artifacts.uri("jobs", job.id, f"attempt-{attempt}", "receipt.json")
        there = artifacts.local_path(uri)
        if there is None and artifacts.exists(uri):
            there = get_settings().scratch / job.id / "pulled" / "receipt.json"
            artifacts.get_file(uri, there)
        if there is not None and there.is_file():
            return json.loads(there.read_text(encoding="utf-8"))
    raise NotFoundError(f"job {job.id} has no receipt yet; it is {job.status}.", hint=f"See `celora status {job.id}`.")


def _placed(spec: JobSpec) -> tuple[JobSpec, dict[str, str]]:
    """Return the spec with its parent's base and shape, each file's absolute path and each dataset's URI.

    Returns:
        The spec, and the datasets' file names by set.

    Raises:
        DataError: A file is missing.
        NotFoundError: There is no dataset of that name, or no adapter to go on from.
        SettingsError: A field contradicts that adapter.
    """
    given = spec.eval_dataset
    named = {name: _path(source) for name, source in given.items()} if isinstance(given, dict) else given
    held_out = _path(named) if isinstance(named, str) else named
    placed = _with_parent(spec).model_copy(update={"dataset": _path(spec.dataset), "eval_dataset": held_out})
    if not any(record_of.Reference.parse(source) for source in _sources(placed)):
        return placed, {}
    with record().session(Scope.everything) as session:
        resolved, versions = record_of.resolve(session, placed)
        return resolved, {role: record_of.file_name(version) for role, version in versions.items()}


def _with_parent(spec: JobSpec) -> JobSpec:
    if not (spec.continue_from or spec.reference):
        return spec
    from ..models.adapters import lineage  # noqa: PLC0415  (few checks name a parent, and it loads the protocol)

    with record().session(Scope.everything) as session:
        return lineage.resolve(session, spec)


def _path(source: str) -> str:
    if not is_file(source):
        return source
    if not Path(source).exists() and not is_several(source):
        raise DataError(f"the dataset {source} is no file here.", hint="Check the path.")
    return str(Path(source).absolute())


def _sources(spec: JobSpec) -> Iterator[str]:
    yield spec.dataset
    given = spec.eval_dataset
    yield from given.values() if isinstance(given, dict) else filter(None, [given])


def checked(spec: JobSpec, file_names: dict[str, str]) -> tuple[Receipt, Fault | None]:
    """Check the data here, and show each phase once; return the receipt, and the fault of the data if it has one.

    Raises:
        CeloraError: The error is not one of the data.
    """
    from ..services import job_checks  # noqa: PLC0415  (Celery takes a third of a second to import)
    from ..services.native.data_check import check_data  # noqa: PLC0415  (the same)

    settings = get_settings()
    spec = job_checks.check_spec(spec.model_dump(exclude_unset=True), settings, to_train=False)
    secrets = Secrets(settings.home).environment("HF_TOKEN")
    log = settings.logs / "check.log"
    found = check_data(
        spec, settings, file_names=file_names, environment=secrets, own_files=True, on_event=_Phases(), log=log
    )
    return found.receipt, found.error


class _Phases:
    """Shows each phase of the trainer once."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "phase" and event["phase"] != self._shown:
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
        "server": (Server, None),
        "keep": (
            Annotated[
                bool, typer.Option("--keep", help="Leave the sent file on the server, for a submit that follows.")
            ],
            False,
        ),
    },
)
