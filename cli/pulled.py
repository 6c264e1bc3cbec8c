"""Pulls an adapter from a server, judges the folder of ``celora pull``, and prints what was pulled into it."""

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..errors import SettingsError
from ..tuning.adapters.usage import python_snippet
from .access import connect
from .output import print_json, progress_console, say


def pull_from(server: str, named: str, folder: Path | None, *, merged: bool, tenant: str | None, as_json: bool) -> None:
    """Fetch an adapter from a server, verify it, and print the lines of Python that use it.

    Raises:
        SettingsError: An option has no meaning for a server, or the folder holds something.
        CeloraError: The server has no such adapter, or does not answer.
    """
    if merged or tenant is not None:
        option, why = ("--merged", "a server sends adapters") if merged else ("--tenant", "its key decides the tenant")
        raise SettingsError(f"{option}: {why}.", hint="Leave it out.")
    from ..api.client.downloads import fetch_adapter, find_adapter, local_name  # noqa: PLC0415  (most commands call no server)

    with connect(server) as connection:
        found = find_adapter(connection, named)
        target = empty_folder(folder or Path(local_name(found.name or found.job_id)))
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn())
        out = progress_console()
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
            task = bar.add_task("pulling", total=None)
            fetch_adapter(connection, found.job_id, target, lambda size_bytes: bar.advance(task, size_bytes))
    print_pulled(found.job_id, target, python_snippet(found.base, str(target)).splitlines(), {}, as_json=as_json)


def empty_folder(folder: Path) -> Path:
    """Return the whole path of a folder that is missing or empty.

    Raises:
        SettingsError: The folder holds something.
    """
    target = folder.absolute()
    if target.exists() and any(target.iterdir()):
        raise SettingsError(f"the folder {target} is not empty.", hint="Give another one: celora pull ID DIR")
    return target


def print_pulled(job_id: str, target: Path, lines: list[str], facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the folder and the lines of Python that use it.

    Args:
        job_id: The adapter's job.
        target: The folder.
        lines: The lines of Python.
        facts: Further facts for programs.
        as_json: Print JSON.
    """
    if as_json:
        files = [{"name": path.name, "size_bytes": path.stat().st_size} for path in sorted(target.iterdir())]
        print_json({"id": job_id, "folder": str(target), "files": files, "python": lines, **facts})
    else:
        say(f"{target}\n")
        say("\n".join(lines))
