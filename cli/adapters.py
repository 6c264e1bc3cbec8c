"""Commands about what came out: ``adapters``, ``pull``, ``generate``."""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..models import champions, history
from ..models.tables import Job
from ..settings.errors import NotFoundError, SettingsError, StorageError
from ..settings.gpus import gpu_catalogue
from ..settings.secrets import Secrets
from ..settings.settings import Settings, get_settings
from ..storage.artifacts import Artifacts
from ..storage.manifest import MANIFEST, verify_manifest
from ..storage.paths import confine
from ..tuning.adapter import merged_snippet, python_snippet
from ..tuning.protocol import Base, GenerateRequest, MergeRequest
from ..workers.parts import require_training
from .bases import hub_access
from .output import Json, console, print_json, progress_console, size, table
from .precision import Precision
from .record import record

Named = Annotated[str, typer.Argument(metavar="NAME|ID", help="A champion, else an adapter's name, else a job's id.")]
Tenant = Annotated[str, typer.Option(help="Whose names they are.")]


def adapters(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's adapters.")] = None, as_json: Json = False
) -> None:
    """List the published adapters, the newest first.

    Example: `celora adapters --json`
    """
    with record().session() as session:
        rows = history.adapters(session, tenant=tenant)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("No adapter has been published yet. Train one: celora demo")
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
    tenant: Tenant = "default",
    as_json: Json = False,
) -> None:
    """Copy an adapter to a folder, verify it, and print the lines of Python that use it.

    With --merged it becomes a model of its own, for servers that take no adapters: folded into the base as it was
    before quantization, written, read again and compared with base and adapter side by side.

    Example: `celora pull 019a… my-adapter`

    Example: `celora pull support-bot my-model --merged --dtype bf16`
    """
    job, _ = _published(named, tenant)
    name = f"{job.name or job.id}-merged" if merged else job.name or job.id
    target = (folder or Path(name)).absolute()
    if target.exists() and any(target.iterdir()):
        raise SettingsError(f"the folder {target} is not empty.", hint="Give another one: celora pull ID DIR")
    if merged:
        facts, lines = _merge(job, target, dtype), merged_snippet(str(target)).splitlines()
    else:
        _fetch(str(job.adapter_uri), target)
        facts, lines = {}, python_snippet(Base.model_validate(job.base), str(target)).splitlines()
    for warning in facts.get("warnings", []):
        progress_console().print(f"warning: {warning}", style="yellow", markup=False)
    if as_json:
        files = [{"name": path.name, "size_bytes": path.stat().st_size} for path in sorted(target.iterdir())]
        print_json({"id": job.id, "folder": str(target), "files": files, "python": lines, **facts})
    else:
        typer.echo(f"{target}\n")
        typer.echo("\n".join(lines))


def generate(
    named: Named,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT…", help="What to answer; - reads standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="System text before each prompt, as the training had.")] = None,
    base_only: Annotated[bool, typer.Option("--base", help="Let the bare base model answer instead.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest word each time.")] = 0.0,
    tenant: Tenant = "default",
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
        base=Base.model_validate(job.base),
        adapter_dir=None if base_only else str(_local(str(job.adapter_uri))),
        quantization=(job.resolved or {}).get("quantization", "nf4"),
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
        typer.echo("\n".join(result["answers"]))


def _merge(job: Job, target: Path, dtype: Precision) -> dict[str, Any]:
    """Write the merged model to a folder; what the check of it found."""
    settings = get_settings()
    if target.exists():
        target.rmdir()  # it is empty
    request = MergeRequest(
        job=job.id,
        attempt=job.attempt,
        cache_dir=str(settings.cache),
        hub=hub_access(settings),
        threads=settings.trainer_threads,
        base=Base.model_validate(job.base),
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
    """Let a trainer of our own do it, and show its phases."""
    from ..workers.supervisor import run_once  # noqa: PLC0415  (Celery takes a third of a second to import)

    environment = Secrets(settings.home).environment("HF_TOKEN")
    require_training()
    return run_once(request, Phases(), log=settings.logs / log, environment=environment)


class Phases:
    """Shows what the trainer does, each phase once."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Show an event, if it says something new."""
        told = event.get("phase") or event.get("message")
        if told and told != self._shown:
            progress_console().print(told, style="dim", markup=False)
        self._shown = told


def _exact(row: dict[str, Any]) -> float | None:
    metrics: dict[str, dict[str, float]] = row.get("metrics") or {}
    return metrics.get("tuned", {}).get("exact_match")


def _published(named: str, tenant: str) -> tuple[Job, str]:
    """The job of a published adapter, and in words how its name was understood.

    Raises:
        NotFoundError: There is no such champion, adapter or job, or nothing came out of it (yet).
    """
    with record().session() as session:
        job, told = champions.resolve(session, named, tenant)
        if not job.adapter_uri:
            raise NotFoundError(
                f"job {job.id} is {job.status} and has published no adapter.", hint=f"See `celora status {job.id}`."
            )
        session.expunge(job)
        return job, told


def _local(uri: str) -> Path:
    """A local folder with a published adapter, fetched where the artifact root is not local."""
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
    staged = target.with_name(f".{target.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        _copy(artifacts, uri, staged)
        verify_manifest(staged)
        if target.exists():
            target.rmdir()
        staged.rename(target)
    except OSError as error:
        raise StorageError(f"{target} can't be written ({error}).", hint="Give another folder.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy(artifacts: Artifacts, uri: str, staged: Path) -> None:
    """File after file, as the manifest names them, with a bar."""
    artifacts.get_file(f"{uri}/{MANIFEST}", staged / MANIFEST)
    entries: list[dict[str, Any]] = json.loads((staged / MANIFEST).read_text(encoding="utf-8"))["files"]
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn())
    with Progress(*columns, console=progress_console(), transient=True) as bar:
        task = bar.add_task("pulling", total=sum(entry["size_bytes"] for entry in entries))
        for entry in entries:
            artifacts.get_file(f"{uri}/{entry['name']}", confine(str(staged / entry["name"]), [staged]))
            bar.advance(task, entry["size_bytes"])
