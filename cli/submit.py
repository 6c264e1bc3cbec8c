"""``celora submit``: every field of the job spec as an option, a job file, or both.

Unusual: the function's signature is made from the spec's own fields (options.py), so that ``--help`` always lists what
there is.
"""

from pathlib import Path
from typing import Annotated

import typer

from ..models.datasets import Reference, of_content
from ..models.registry import register_dataset
from ..models.spec import parse_spec
from ..models.states import Status
from ..settings.errors import DataError
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning import formats
from ..tuning.sources import is_remote
from .datasets import name_of
from .jobs import told_outcome
from .options import Fields, command, fields_of
from .output import Json, print_json, progress_console
from .record import record
from .watch import follow

FILES = (".jsonl", ".json", ".csv", ".parquet", ".gz")
"""A dataset so called is a file, even where it is missing."""

CHECKED_BYTES = 64 * 2**20
"""Up to this size a dataset is read before it is submitted."""


def submit_job(
    words: list[str] | None, *, wait: bool, as_json: bool, job_id: str | None, **options: str | list[str] | None
) -> None:
    """Submit a fine-tuning job.

    The dataset is copied into the installation, named by its content, before the job is recorded. Fields may come from
    a YAML file; an option overrides it.

    Example: `celora submit --base-model smollm2-135m-instruct --dataset train.jsonl --epochs 1 --wait`

    Example: `celora submit job.yaml --rank 8 --json`
    """
    fields = fields_of(words or [], options, loose="")
    parse_spec(fields)
    record()
    chosen = _submit(_imported(fields), job_id)
    if not wait:
        _accepted(chosen, as_json=as_json)
        return
    try:
        job = follow(chosen)
    except KeyboardInterrupt:
        progress_console().print(
            f"Job {chosen} goes on; see `celora status {chosen}`, end it with `celora cancel {chosen}`."
        )
        raise
    told_outcome(job, as_json=as_json)
    if job["status"] != Status.COMPLETED:
        raise typer.Exit(1)


def _submit(fields: Fields, job_id: str | None) -> str:
    from ..tasks import submission  # noqa: PLC0415  (Celery takes a third of a second to import)

    return submission.submit(fields, job_id=job_id)


def _accepted(job_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": job_id})
    else:
        typer.echo(f"{job_id}\nFollow it: celora status {job_id}   celora logs {job_id} -f")


def _imported(fields: Fields) -> Fields:
    """The fields with every dataset that is a file here imported, and named by its name and version."""
    given: str | dict[str, str] = fields.get("eval_dataset") or {}
    held_out = {"": given} if isinstance(given, str) else given
    gate: Fields = fields.get("gate") or {}
    required = [str(gate["must_pass"])] if gate.get("must_pass") else []
    sources = [str(fields["dataset"]), *map(str, held_out.values()), *required]
    files = {source: Path(source) for source in sources if is_file(source)}
    for path in files.values():
        _check(path)
    tenant = str(fields.get("tenant", "default"))
    known = {source: _registered(path, tenant) for source, path in files.items()}
    placed = {name: known.get(str(source), str(source)) for name, source in held_out.items()}
    changed: Fields = {"dataset": known.get(str(fields["dataset"]), str(fields["dataset"]))}
    if required:
        changed["gate"] = {**gate, "must_pass": known.get(required[0], required[0])}
    return {**fields, **changed, **({"eval_dataset": placed.get("", placed)} if placed else {})}


def is_file(source: str) -> bool:
    """Whether a dataset is to be read here: what is no URL, and no name of a dataset that the record knows."""
    if is_remote(source):
        return False
    return Path(source).exists() or Reference.parse(source) is None or Path(source).suffix in FILES


def _registered(path: Path, tenant: str) -> str:
    """Import a file and return NAME@VERSION: the same content's where it has one, else the file's own name's next."""
    sha256, uri = Artifacts(get_settings().artifacts).import_dataset(path)
    with record().transaction() as session:
        found = of_content(session, tenant, sha256) or register_dataset(
            session, tenant=tenant, name=name_of(path), sha256=sha256, uri=uri, size_bytes=path.stat().st_size
        )
        return f"{found.name}@{found.version}"


def _check(path: Path) -> None:
    """Refuse a file with a bad line here, under its own name; a large one is left to ``prepare``, which reads it too.

    Raises:
        DataError: It is missing, has bad lines, or no rows.
    """
    if not path.is_file():
        raise DataError(f"the dataset {path} is no file here.", hint="Give the path of a .jsonl file.")
    if path.stat().st_size <= CHECKED_BYTES:
        formats.require_good(formats.read(path))


submit = command(
    submit_job,
    {
        "words": (Annotated[list[str] | None, typer.Argument(metavar="[JOB.yaml]", help="A job file.")], None),
        "wait": (
            Annotated[bool, typer.Option("--wait", help="Stay until the job has ended; exit 0 only if it completed.")],
            False,
        ),
        "as_json": (Json, False),
        "job_id": (
            Annotated[str | None, typer.Option("--id", help="An id of your own; the same id twice is one job.")],
            None,
        ),
    },
)
