"""Defines the commands about published adapters: ``adapters``, ``pull``, ``generate``."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..errors import NotFoundError
from ..models import champions, queries
from ..models.columns import quantization_of
from ..models.jobs.stage_results import base_of
from ..models.tables import Adapter, Job
from ..models.tables.champion import Champion
from ..settings.gpus import gpu_catalogue
from ..settings.secrets import Secrets
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..storage.manifest import MANIFEST
from ..storage.paths import confine
from ..storage.received_folder import receive_folder
from ..tuning.adapters.usage import merged_snippet, python_snippet
from ..tuning.protocol import GenerateRequest, MergeRequest
from ..workers.requirements import require_training
from ..workers.trainer.requests import hub_access
from .access import Server
from .open_record import record
from .output import Json, console, print_json, progress_console, say, size, table
from .precision import Precision
from .pulled import empty_folder, print_pulled, pull_from
from .tenants import Tenant, scope_of, tenant_of

Named = Annotated[str, typer.Argument(metavar="NAME|ID", help="A champion, else an adapter's name, else a job's id.")]


def adapters(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's adapters.")] = None, as_json: Json = False
) -> None:
    """List the published adapters, the newest first.

    Example: `celora adapters --json`
    """
    with record().session(scope_of(tenant)) as session:
        rows = queries.adapters(session)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No adapter has been published yet. Train one: celora demo")
        return
    columns = ["id", "name", "base", "rank", "size", "exact match", "created"]
    keys = ("id", "name", "base_name", "rank")
    cells = [(*(row[key] for key in keys), size(row["size_bytes"]), _exact(row), row["created_at"]) for row in rows]
    console().print(table(columns, cells))


def pull(
    named: Named,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; a new folder here unless given.")
    ] = None,
    *,
    merged: Annotated[
        bool, typer.Option("--merged", help="Whole weights: the adapter folded into its 16-bit base, on this machine.")
    ] = False,
    dtype: Annotated[Precision, typer.Option(help="Of the merged weights.")] = Precision.BF16,
    tenant: Tenant = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Copy an adapter to a folder, verify it, and print the lines of Python that use it.

    With --merged it becomes a model of its own, for servers that take no adapters: folded into the base as it was
    before quantization, written, read again and compared with base and adapter side by side.

    Example: `celora pull 019a… my-adapter`

    Example: `celora pull support-bot my-model --merged --dtype bf16`
    """
    if server:
        pull_from(server, named, folder, merged=merged, tenant=tenant, as_json=as_json)
        return
    job, _ = _published(named, tenant)
    target = empty_folder(folder or Path(f"{job.name or job.id}-merged" if merged else job.name or job.id))
    if merged:
        facts, lines = _merge(job, target, dtype), merged_snippet(str(target)).splitlines()
    else:
        _fetch(str(job.adapter_uri), target)
        facts, lines = {}, python_snippet(base_of(job), str(target)).splitlines()
    for warning in facts.get("warnings", []):
        progress_console().print(f"warning: {warning}", style="yellow", markup=False)
    print_pulled(job.id, target, lines, facts, as_json=as_json)


def generate(
    named: Named,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="What to answer; - reads standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text before each prompt, as the training had.")] = None,
    base_only: Annotated[bool, typer.Option("--base", help="Let the bare base model answer instead.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest word each time.")] = 0.0,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Answer prompts with a champion, or with any published adapter, on this machine.

    Example: `celora generate support-bot "My kettle arrived broken, order A123. Thank you. Maria"`
    """
    (job, told), settings = _published(named, tenant), get_settings()
    progress_console().print("the bare base of " + told if base_only else told, style="dim", markup=False)
    said = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    request = GenerateRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base=base_of(job),
        adapter_dir=None if base_only else str(_local(str(job.adapter_uri))),
        quantization=quantization_of(job) or "nf4",
        prompts=said,
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        device=_device(settings),
    )
    result = _trainer(request, settings, "generate.log")
    if as_json:
        print_json(
            [{"prompt": prompt, "answer": answer} for prompt, answer in zip(said, result["answers"], strict=True)]
        )
    else:
        say("\n".join(result["answers"]))


def _merge(job: Job, target: Path, dtype: Precision) -> dict[str, Any]:
    """Write the merged model to a folder; return the result of its check."""
    settings = get_settings()
    if target.exists():
        target.rmdir()  # it is empty
    request = MergeRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base=base_of(job),
        adapter_dir=str(_local(str(job.adapter_uri))),
        dtype=dtype.dtype,
        out_dir=str(target),
        device=_device(settings),
    )
    return _trainer(request, settings, "merge.log")


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    from ..workers.gpu import devices  # noqa: PLC0415  (only these commands and the workers look for devices)

    return "cuda" if devices(gpu_catalogue(settings.gpus)) else "cpu"


def _trainer(request: GenerateRequest | MergeRequest, settings: Settings, log: str) -> dict[str, Any]:
    """Run a request in a trainer of this command's own, and show its phases."""
    from ..workers.trainer.supervisor import run_once  # noqa: PLC0415  (Celery takes a third of a second to import)

    environment = Secrets(settings.home).environment("HF_TOKEN")
    require_training()
    return run_once(request, Phases(), log=settings.logs / log, environment=environment)


class Phases:
    """Shows what the trainer does, each phase once."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Show the phase or the message of an event, unless it was shown last."""
        told = event.get("phase") or event.get("message")
        if told and told != self._shown:
            progress_console().print(told, style="dim", markup=False)
        self._shown = told


def _exact(row: dict[str, Any]) -> float | None:
    metrics: dict[str, dict[str, float]] = row.get("metrics") or {}
    return metrics.get("tuned", {}).get("exact_match")


def _published(named: str, tenant: str | None) -> tuple[Job, str]:
    """Find the job of a published adapter; return it, and in words how its name was resolved.

    Raises:
        NotFoundError: There is no such champion, adapter or job, or the job has published no adapter (yet).
    """
    whose = tenant_of(tenant, [named], Champion, Adapter)
    with record().session(scope_of(tenant)) as session:
        job, told = champions.resolve(session, named, whose)
        if not job.adapter_uri:
            raise NotFoundError(
                f"job {job.id} is {job.status} and has published no adapter.", hint=f"See `celora status {job.id}`."
            )
        session.expunge(job)
        return job, told


def _local(uri: str) -> Path:
    """Return a local folder with a published adapter, which is fetched where the artifact root is not local."""
    there = Artifacts(get_settings().artifacts).local_path(uri)
    if there is not None:
        return there
    target = get_settings().scratch / "generate" / Path(uri).parts[-2] / Path(uri).name
    if not (target / MANIFEST).is_file():
        _fetch(uri, target)
    return target


def _fetch(uri: str, target: Path) -> None:
    """Copy a committed folder beside its target, verify it, and move it there."""
    artifacts = Artifacts(get_settings().artifacts)
    with receive_folder(target, what="the adapter") as staged:
        _copy(artifacts, uri, staged)


def _copy(artifacts: Artifacts, uri: str, staged: Path) -> None:
    """Copy the files that the manifest names, one after another, with a progress bar."""
    artifacts.get_file(f"{uri}/{MANIFEST}", staged / MANIFEST)
    entries: list[dict[str, Any]] = json.loads((staged / MANIFEST).read_text(encoding="utf-8"))["files"]
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn())
    with Progress(*columns, console=progress_console(), transient=True) as bar:
        task = bar.add_task("pulling", total=sum(entry["size_bytes"] for entry in entries))
        for entry in entries:
            artifacts.get_file(f"{uri}/{entry['name']}", confine(str(staged / entry["name"]), [staged]))
            bar.advance(task, entry["size_bytes"])
