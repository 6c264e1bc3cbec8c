"""Defines ``celora submit``, which takes the job spec from options (one for every field), a job file, or both.

Unusual: the function's signature is made from the spec's own fields (options.py), so that ``--help`` always lists every
field.
"""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..models import datasets
from ..models.datasets import of_content
from ..models.queries import get_tenant
from ..models.scope.scope import Scope
from ..models.spec import parse_spec
from ..models.states import Status
from ..models.tenants.limits import limits_of
from ..services.tenants.storage import check_storage
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning.files.source_files import one_file
from .access import Server, connect, jobs_at
from .datasets import name_of
from .jobs import print_outcome
from .open_record import record
from .options import Fields, command, fields_of
from .output import Json, print_json, progress_console, say
from .rows_here import check_rows, is_file
from .watch import follow


def submit_job(
    words: list[str] | None,
    *,
    wait: bool,
    as_json: bool,
    job_id: str | None,
    server: str | None,
    **options: str | list[str] | None,
) -> None:
    """Submit a fine-tuning job.

    The dataset is copied into the installation, named by its content, before the job is recorded. Fields may come from
    a YAML file; an option overrides it. With --server the files are sent there.

    Example: `celora submit --base-model smollm2-135m-instruct --dataset train.jsonl --epochs 1 --wait`

    Example: `celora submit job.yaml --rank 8 --json`
    """
    fields = fields_of(words or [], options, loose="")
    parse_spec(fields)
    chosen = _submit(fields, job_id, server)
    if not wait:
        _accepted(chosen, as_json=as_json)
        _warn(chosen, server)
        return
    try:
        with jobs_at(server) as jobs:
            job = follow(chosen, read=jobs.detail)
    except KeyboardInterrupt:
        progress_console().print(
            f"Job {chosen} goes on; see `celora status {chosen}`, end it with `celora cancel {chosen}`."
        )
        raise
    print_outcome(job, as_json=as_json)
    if job.status != Status.COMPLETED:
        raise typer.Exit(1)


def _submit(fields: Fields, job_id: str | None, server: str | None) -> str:
    if server:
        from .remote_submit import submit_to  # noqa: PLC0415  (most commands call no server)

        with connect(server) as connection:
            return submit_to(connection, fields, job_id)
    from ..services import jobs  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    return jobs.submit(_imported(fields), job_id=job_id)


def _accepted(job_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": job_id})
    else:
        say(f"{job_id}\nFollow it: celora status {job_id}   celora logs {job_id} -f")


def _warn(job_id: str, server: str | None) -> None:
    """Print the warnings that came with the submission: labels that no worker carries, a budget that is too small."""
    with jobs_at(server) as jobs:
        warned = [str(each["message"]) for each in jobs.events(job_id, 0) if each["level"] == "warning"]
    for message in warned:
        say(f"Warning: {message.rstrip('.')}.", err=True)


def _imported(fields: Fields) -> Fields:
    """Import each dataset that is a file here; return the fields with its name and version in its place."""
    given: str | dict[str, str] = fields.get("eval_dataset") or {}
    held_out = {"": given} if isinstance(given, str) else given
    gate: Fields = fields.get("gate") or {}
    required = [str(gate["must_pass"])] if gate.get("must_pass") else []
    sources = [str(fields["dataset"]), *map(str, held_out.values()), *required]
    tenant = str(fields.get("tenant", "default"))
    if get_settings().known_tenants_only:
        with record().session(Scope.everything) as session:
            get_tenant(session, tenant)
    with ExitStack() as undo:
        files = {
            source: undo.enter_context(one_file(source, get_settings().scratch, held_out=number > 0))
            for number, source in enumerate(sources)
            if is_file(source)
        }
        for source, path in files.items():
            check_rows(path, fields if source == sources[0] else None)
        known = {source: _registered(path, tenant) for source, path in files.items()}
    placed = {name: known.get(str(source), str(source)) for name, source in held_out.items()}
    changed: Fields = {"dataset": known.get(str(fields["dataset"]), str(fields["dataset"]))}
    if required:
        changed["gate"] = {**gate, "must_pass": known.get(required[0], required[0])}
    return {**fields, **changed, **({"eval_dataset": placed.get("", placed)} if placed else {})}


def _registered(path: Path, tenant: str) -> str:
    """Import a file and return NAME@VERSION: that of the same content, else the next version of the file's own name."""
    settings = get_settings()
    _check_room(path, tenant)
    sha256, uri = Artifacts(settings.artifacts).import_dataset(path, settings.prepare_file_bytes)
    with record().transaction(Scope.of(tenant)) as session:
        known = of_content(session, tenant, sha256)
        found = datasets.register(
            session,
            tenant=tenant,
            name=known.name if known else name_of(path),
            sha256=sha256,
            uri=uri,
            size_bytes=path.stat().st_size,
            file_name=path.name,
        )
        return f"{found.name}@{found.version}"


def _check_room(path: Path, tenant: str) -> None:
    """Refuse a file that its tenant has no room for, before the file is copied; content that it has needs no room.

    Raises:
        TenantLimitError: There is no room.
    """
    with record().transaction(Scope.of(tenant)) as session:
        if limits_of(session, tenant).storage_bytes is None:
            return
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        if of_content(session, tenant, sha256) is None:
            check_storage(session, tenant, path.stat().st_size)


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
        "server": (Server, None),
    },
)
