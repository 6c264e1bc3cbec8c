"""``celora bases``: base models on this machine.

They are cached as fetched from a hub, as converted from a ``.gguf`` file, and as quantized to 4 bits. The first job
that needs a copy makes it; here one can look, make room, or fetch ahead.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..settings import bases as catalogue
from ..settings.errors import NotFoundError
from ..settings.secrets import Secrets
from ..settings.settings import Settings, get_settings
from ..storage.manifest import MANIFEST
from ..tuning.protocol import HubAccess
from .output import Json, console, print_json, progress_console, size, table

app = typer.Typer(
    invoke_without_command=True,
    help="Base models in this machine's cache.\n\nExample: `celora bases`, `celora bases add smollm2-135m-instruct`",
)

Source = Annotated[str, typer.Argument(help="A name of the catalogue, a hub id, a folder or a .gguf file.")]


@app.callback()
def bases(context: typer.Context, *, as_json: Json = False) -> None:
    """List what is cached, with sizes."""
    if context.invoked_subcommand is None:
        _show(as_json=as_json)


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List what is cached, with sizes.

    Example: `celora bases list --json`
    """
    _show(as_json=as_json)


@app.command("add")
def add(
    source: Source,
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub base.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch or convert a base model now, so that no job has to wait for it.

    Example: `celora bases add smollm2-135m-instruct`
    """
    from ..tuning import base  # noqa: PLC0415  (half a second that the other commands need not wait)

    settings = get_settings()
    out = progress_console()

    def emit(_event: str, **fields: Any) -> None:
        done, total = fields.get("done"), fields.get("total")
        share = f" {size(done)} of {size(total)}" if done and total else ""
        out.print(f"{fields.get('phase', '')}{share}", markup=False)

    os.environ.update(Secrets(settings.home).environment("HF_TOKEN"))
    found = base.resolve(source, revision, settings.cache, hub_access(settings), emit)
    if as_json:
        print_json(found.model_dump())
    else:
        typer.echo(f"{found.name} is here: {found.parameters:,} weights, revision {found.revision}")


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="As `celora bases` lists it.")], *, as_json: Json = False) -> None:
    """Remove every cached copy of a base model; a job that needs it later makes it again.

    Example: `celora bases remove smollm2-135m-instruct`
    """
    cache = get_settings().cache
    copies = [copy for copy in cached(cache) if name in (copy["name"], copy["source"])]
    if not copies:
        raise NotFoundError(f"no base model {name} is cached in {cache}.", hint="See `celora bases`.")
    for copy in copies:
        shutil.rmtree(copy["path"])
    freed_bytes = sum(copy["size_bytes"] for copy in copies)
    if as_json:
        print_json({"name": name, "copies": len(copies), "size_bytes": freed_bytes})
    else:
        typer.echo(f"{name} is removed: {len(copies)} copies, {size(freed_bytes)}")


def cached(cache: Path) -> list[dict[str, Any]]:
    """Every copy of a base model below the cache: name, form, revision, source, size and path."""
    return sorted([*_made(cache), *_fetched(cache)], key=lambda copy: (copy["name"], copy["form"]))


def hub_access(settings: Settings) -> HubAccess:
    """How this installation may reach the hub."""
    return HubAccess(
        endpoint=settings.hub_endpoint,
        offline=settings.offline,
        allowed_bases=settings.allowed_bases,
        remote_code_bases=settings.remote_code_bases,
    )


def _made(cache: Path) -> Iterator[dict[str, Any]]:
    for form in ("converted", "quantized"):
        for manifest in sorted((cache / form).glob(f"*/{MANIFEST}")):
            facts: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            yield {
                "name": facts["name"],
                "form": form,
                "revision": facts["revision"],
                "source": facts.get("source", ""),
                "size_bytes": _size(manifest.parent),
                "path": str(manifest.parent),
            }


def _fetched(cache: Path) -> Iterator[dict[str, Any]]:
    for folder in sorted((cache / "hub").glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        commits = sorted(path.name for path in (folder / "snapshots").glob("*"))
        yield {
            "name": name,
            "form": "hub",
            "revision": ", ".join(commits),
            "source": name,
            "size_bytes": _size(folder),
            "path": str(folder),
        }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _show(*, as_json: bool) -> None:
    copies = cached(get_settings().cache)
    if as_json:
        print_json(copies)
        return
    if copies:
        columns = ["base model", "form", "size", "revision"]
        rows = [(copy["name"], copy["form"], size(copy["size_bytes"]), copy["revision"][:24]) for copy in copies]
        console().print(table(columns, rows))
    else:
        typer.echo(f"Nothing is cached in {get_settings().cache}.")
    typer.echo("Names of the catalogue: " + ", ".join(base.name for base in catalogue.CATALOGUE))
