"""Defines ``celora datasets``, which registers files under a name with versions.

A version is identified by its content: adding the same file twice makes one version. A job names a version as
``--dataset support-faq`` (the newest at that moment) or ``--dataset support-faq@3``, and `celora status` shows the
version that the job used.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import datasets as record_of
from ..models.datasets import name_of
from ..models.scope.scope import Scope
from ..models.tables import Dataset
from ..tuning.files.suffixes import dataset_name, is_several
from .open_record import record
from .output import Json, as_json, console, print_json, progress_console, say, size, table
from .tenants import Tenant, scope_of, tenant_of, tenant_option

app = typer.Typer(
    invoke_without_command=True,
    help="Datasets by name and version.\n\nExample: `celora datasets add train.jsonl --name support-faq`",
)

Name = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The newest version unless one is named.")]
SHOWN_JOBS = 10


@app.callback()
def datasets(context: typer.Context, *, as_json: Json = False) -> None:
    """List every dataset's newest version."""
    if context.invoked_subcommand is None:
        _list(tenant=None, as_json=as_json)


@app.command("list")
def list_(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List every dataset's newest version.

    Example: `celora datasets list --json`
    """
    _list(tenant=tenant, as_json=as_json)


@app.command("add")
def add(
    file: Annotated[
        Path,
        typer.Argument(help="A data file: .jsonl, .json, .csv, .tsv or .parquet, plain or .gz; or a folder of them."),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="Its name; the file's own unless given.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose it is.")] = "default",
    as_json: Json = False,
) -> None:
    """Add a file as the next version of a name; the same content again is the version it was.

    Example: `celora datasets add train.jsonl --name support-faq`
    """
    from ..services import datasets as verbs  # noqa: PLC0415  (Celery takes a third of a second to import)

    record()
    chosen = name or name_of(Path(dataset_name(str(file))) if is_several(str(file)) else file)
    added = verbs.add(file, name=chosen, tenant=tenant, on_event=_reading())
    if as_json:
        print_json(added)
        return
    called = f"{added['name']}@{added['version']}"
    what = "is added" if added["new"] else "is there already, with this very content"
    say(f"{called} {what}: {added['rows']:,} rows, {size(added['size_bytes'])}, sha256 {added['sha256'][:12]}…")
    say(f"Train on it: celora submit --base-model NAME --dataset {called}{tenant_option(tenant)}")


@app.command("show")
def show(name: Name, *, tenant: Tenant = None, as_json: Json = False) -> None:
    """Show a dataset's versions, and the jobs that saw the one that is named.

    Example: `celora datasets show support-faq@3`
    """
    whose = tenant_of(tenant, [name], Dataset)
    with record().session(Scope.everything) as session:
        found = record_of.find(session, whose, name)
        versions = record_of.listed(session, tenant=whose, name=found.name)
        jobs = record_of.jobs_using(session, found, limit=SHOWN_JOBS)
    if as_json:
        print_json({"name": found.name, "tenant": whose, "version": found.version, "versions": versions, "jobs": jobs})
        return
    out = console()
    columns = ["version", "rows", "size", "added", "jobs", "sha256"]
    out.print(table(columns, map(_cells, versions), title=f"{found.name}, {len(versions)} versions"))
    for job in jobs:
        out.print(f"{job['role']} rows of job {job['id']} ({job['status']})", markup=False)


@app.command("rows")
def rows(
    name: Name,
    *,
    since: Annotated[
        int | None, typer.Option(min=1, help="Only rows that this version did not have.", metavar="VERSION")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print how many there are instead.")] = False,
    tenant: Tenant = None,
) -> None:
    """Print a version's rows as JSON lines; rows that are new since another version are told by what they hold.

    Example: `celora datasets rows support-faq --since 2 > new.jsonl`
    """
    from ..services import datasets as verbs  # noqa: PLC0415  (as above)

    found = verbs.new_rows(name, since, tenant=tenant_of(tenant, [name], Dataset))
    if count:
        say(sum(1 for _ in found))
        return
    try:
        for row in found:
            typer.echo(as_json(row))
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(*, tenant: str | None, as_json: bool) -> None:
    with record().session(scope_of(tenant)) as session:
        versions = record_of.listed(session)
    newest = [row for row in versions if _is_newest(row, versions)]
    if as_json:
        print_json(newest)
        return
    if not newest:
        say("No dataset. Add one: celora datasets add train.jsonl --name support-faq")
        return
    columns = ["dataset", "tenant", "version", "rows", "size", "added", "jobs", "sha256"]
    console().print(table(columns, ((row["name"], row["tenant"], *_cells(row)) for row in newest)))


def _is_newest(row: dict[str, Any], versions: Iterable[dict[str, Any]]) -> bool:
    same = (one["version"] for one in versions if (one["tenant"], one["name"]) == (row["tenant"], row["name"]))
    return row["version"] == max(same)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    rows_ = f"{row['rows']:,}" if row["rows"] is not None else None
    return (row["version"], rows_, size(row["size_bytes"]), row["created_at"], row["jobs"], row["sha256"][:12])


def _reading() -> Any:
    out = progress_console()

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "phase" and event.get("total") and out.is_terminal:
            share = f"{size(event['done'])} of {size(event['total'])}"
            out.print(f"{event['phase']}: {share}", end="\r", markup=False)

    return told
