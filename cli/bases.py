"""Defines ``celora bases``, which lists, adds and removes the base models in this machine's cache.

A base is cached as fetched from a hub, as converted from a ``.gguf`` file, and as quantized to 4 bits. The first job
that needs a copy makes it; ``celora bases add`` makes it ahead.
"""

import os
from typing import Annotated, Any

import typer

from ..settings import bases as catalogue
from ..settings.secrets import Secrets
from ..settings.settings import get_settings
from ..tuning.bases import cache
from .output import Json, console, print_json, progress_console, say, size, table

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
    from ..tuning.bases import base  # noqa: PLC0415  (half a second that the other commands need not wait)
    from ..workers.trainer.requests import hub_access  # noqa: PLC0415  (the same)

    settings = get_settings()
    out = progress_console()

    def emit(_event: str, **fields: Any) -> None:
        done, total = fields.get("done"), fields.get("total")
        share = f" {size(done)} of {size(total)}" if done and total else ""
        out.print(f"{fields.get('phase', '')}{share}", markup=False)

    os.environ.update(Secrets(settings.home).environment("HF_TOKEN"))
    found = base.resolve(source, revision, settings.cache, hub_access(settings, own_files=True), emit)
    if as_json:
        print_json(found.model_dump())
    else:
        say(f"{found.name} is here: {found.parameters:,} weights, revision {found.revision}")


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="As `celora bases` lists it.")], *, as_json: Json = False) -> None:
    """Remove every cached copy of a base model; a job that needs it later makes it again.

    Example: `celora bases remove smollm2-135m-instruct`
    """
    copies = cache.remove(get_settings().cache, name)
    freed_bytes = sum(copy.size_bytes for copy in copies)
    if as_json:
        print_json({"name": name, "copies": len(copies), "size_bytes": freed_bytes})
    else:
        say(f"{name} is removed: {len(copies)} copies, {size(freed_bytes)}")


def _show(*, as_json: bool) -> None:
    copies = cache.copies(get_settings().cache)
    if as_json:
        print_json([_facts(copy) for copy in copies])
        return
    if copies:
        columns = ["base model", "form", "size", "revision"]
        rows = [(copy.name, copy.form, size(copy.size_bytes), ", ".join(copy.revisions)[:24]) for copy in copies]
        console().print(table(columns, rows))
    else:
        say(f"Nothing is cached in {get_settings().cache}.")
    say("Names of the catalogue: " + ", ".join(base.name for base in catalogue.CATALOGUE))


def _facts(copy: cache.CachedCopy) -> dict[str, str | int]:
    return {
        "name": copy.name,
        "form": copy.form,
        "revision": ", ".join(copy.revisions),
        "source": copy.source,
        "size_bytes": copy.size_bytes,
        "path": str(copy.path),
    }
