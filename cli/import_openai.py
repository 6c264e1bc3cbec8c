"""Defines ``celora import-openai``, which does a user's fine-tuning jobs at OpenAI again on open bases.

Without ``--submit`` it plans: files are read into a temporary folder, priced by their receipts, and removed.
"""

import json
import os
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..api.client.base_table import SHIPPED, BaseTable, read_table
from ..api.client.openai_source import OpenAISource, SourceFile
from ..api.client.server import PLAIN_HTTP, parse_server
from ..errors import CeloraError, LimitError, UnavailableError
from ..models.spec import parse_spec
from ..settings.settings import get_settings
from ..storage.json_values import JsonObject
from ..storage.manifest import file_sha256
from ..tuning.files.suffixes import suffix_of
from .check import checked
from .import_plan import COLUMNS, Planned, plan, write_table
from .open_record import record
from .output import Json, console, money, print_json, progress_console, say, table
from .tenants import DEFAULT

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
LONGEST_NAME_BYTES = 200
UNPRICED = ("suffix", "metadata", "seed")
"""Fields that change nothing in a receipt."""
ROLES = {"dataset": "train", "eval_dataset": "eval"}


def import_openai(
    *,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="Where the jobs are.")] = OPENAI,
    bases: Annotated[
        Path | None,
        typer.Option(help="A table of your own: which base takes the place of a model.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many jobs.")] = 100,
    tenant: Annotated[str, typer.Option(help="Who owns the new jobs and files.")] = DEFAULT,
    submit: Annotated[
        bool, typer.Option("--submit", help="Submit the new jobs; without it they are only planned.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The folder of the table, before-after.md and .json.")] = Path(
        "celora-import"
    ),
    as_json: Json = False,
) -> None:
    """Do your fine-tuning jobs at OpenAI again, on open bases of your own.

    Reads your jobs and files with the key OPENAI_API_KEY, maps each model to an open base, checks the files as a job
    would, and prices each new job. With --submit the files become yours here and the jobs are submitted, each once,
    however often the command is repeated. Exit code 1: some job that succeeded there cannot be done here.

    Example: `celora import-openai --limit 10`

    Example: `celora import-openai --from https://celora.example/v1 --bases bases.toml --submit`
    """
    permitted = os.environ.get(PLAIN_HTTP, "").lower() in ("1", "true", "yes")
    server = parse_server(source, os.environ.get(KEY, "").strip(), plain_http=permitted, variable=KEY)
    own = _table(bases)
    record()
    with OpenAISource(server) as opened, TemporaryDirectory(prefix="celora-import-") as scratch:
        rows = [plan(job, own) for job in opened.jobs(limit)]
        work = _Import(opened, Path(scratch), tenant, server.url)
        for row in rows:
            work.do(row, submit=submit)
    people, programs = write_table(rows, out)
    _print(rows, people, programs, submitted=submit, as_json=as_json)
    if any(row.failed for row in rows):
        raise typer.Exit(1)


def _table(given: Path | None) -> BaseTable:
    from ..services.openai.model_names import base_names  # noqa: PLC0415  (SQL takes its time to import)

    settings = get_settings()
    return BaseTable(
        given={} if given is None else read_table(given),
        aliases=settings.model_aliases,
        own=base_names(settings),
        shipped=read_table(SHIPPED) if given is None else {},
    )


class _Import:
    """Carries out an import.

    Args:
        source: The jobs and files there.
        scratch: A folder for the files.
        tenant: The owner here.
        url: The URL of the source, which is a part of the new jobs' identity.
    """

    def __init__(self, source: OpenAISource, scratch: Path, tenant: str, url: str) -> None:
        self._source, self._scratch, self._tenant, self._url = source, scratch, tenant, url
        self._fetched: dict[str, tuple[SourceFile, Path]] = {}
        self._receipts: dict[str, tuple[JsonObject, dict[str, str] | None]] = {}

    def do(self, row: Planned, *, submit: bool) -> None:
        """Fetch a job's files, price the job, and submit it on request; a fault of one job becomes its remark.

        Raises:
            UnavailableError: The source or a part of this installation is away, which would fail every job.
        """
        if not row.wanted:
            return
        progress_console().print(f"{row.source.id}: {row.source.model} becomes {row.base}", style="dim", markup=False)
        try:
            paths = self._fetch(row)
            self._price(row, paths)
            if submit and row.wanted:
                self._submit(row, paths)
        except UnavailableError:
            raise
        except CeloraError as error:
            row.refuse(str(error))

    def _fetch(self, row: Planned) -> dict[str, Path]:
        """Fetch the files of a job, each file once; return their paths by the field of the spec."""
        wanted = {"dataset": row.source.training_file, "eval_dataset": row.source.validation_file}
        paths: dict[str, Path] = {}
        for name, file_id in wanted.items():
            if file_id is None:
                continue
            file, path = self._file(file_id)
            facts = {"id": file.id, "filename": _name(file), "size_bytes": file.size_bytes}
            row.files[ROLES[name]] = {**facts, "sha256": file_sha256(path)}
            paths[name] = path
        return paths

    def _file(self, file_id: str) -> tuple[SourceFile, Path]:
        if file_id not in self._fetched:
            file, most_bytes = self._source.file(file_id), get_settings().upload_bytes
            if file.size_bytes > most_bytes:
                raise LimitError(f"{file_id} has {file.size_bytes:,} bytes, and a file may have {most_bytes:,}.")
            path = self._scratch / f"{len(self._fetched)}{suffix_of(file.filename) or '.jsonl'}"
            self._source.download(file, path)
            self._fetched[file_id] = file, path
        return self._fetched[file_id]

    def _price(self, row: Planned, paths: dict[str, Path]) -> None:
        fields: JsonObject = {**row.fields, **{name: str(path) for name, path in paths.items()}, "tenant": self._tenant}
        names = {role: str(file["filename"]) for role, file in row.files.items()}
        same = json.dumps({name: value for name, value in fields.items() if name not in UNPRICED}, sort_keys=True)
        if same not in self._receipts:
            self._receipts[same] = checked(parse_spec(fields), names)
        receipt, error = self._receipts[same]
        if error is not None:
            row.refuse(f"{error['message']} {error['hint']}".strip())
        else:
            row.price(receipt)

    def _submit(self, row: Planned, paths: dict[str, Path]) -> None:
        from ..services.openai import reruns  # noqa: PLC0415  (Celery takes a third of a second to import)

        job_id = reruns.rerun_id(self._tenant, self._url, row.source.id)
        if reruns.exists(self._tenant, job_id):
            row.remark = "it was submitted before"
        else:
            names = {name: str(row.files[ROLES[name]]["filename"]) for name in paths}
            kept = {
                name: reruns.keep_file(self._tenant, path, names[name], get_settings()).uri
                for name, path in paths.items()
            }
            reruns.submit_rerun(self._tenant, job_id, {**row.fields, **kept}, moved_from=row.source.id)
        row.job_id = job_id


def _name(file: SourceFile) -> str:
    """Return a file's name as it is shown here; one that could lead elsewhere becomes the file's id."""
    name = PurePath(file.filename.replace("\\", "/")).name
    fits = name.isprintable() and len(name.encode()) <= LONGEST_NAME_BYTES
    return name if fits and name.strip(".") else f"{file.id}.jsonl".replace("/", "-")


def _print(rows: list[Planned], people: Path, programs: Path, *, submitted: bool, as_json: bool) -> None:
    if as_json:
        print_json([row.plain() for row in rows])
        return
    if not rows:
        say("There is no job.")
        return
    console().print(table(COLUMNS, [row.cells() for row in rows]))
    say(f"\nThe table: {people} {programs}")
    if not submitted:
        priced = [row.cost for row in rows if row.wanted and row.cost is not None]
        say(f"Nothing is submitted. {len(priced)} jobs would cost {money(sum(priced))}; --submit submits them.")
