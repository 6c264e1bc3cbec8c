"""Sends the files that a command's job names to a server, with their progress; an id of the server's stays as it is."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from ..api.client.uploads import SentFile, upload
from ..errors import DataError
from ..tuning.files.source_files import one_file
from ..tuning.files.sources import is_remote
from ..tuning.files.suffixes import is_several
from .options import Fields
from .output import progress_console
from .rows_here import is_file

if TYPE_CHECKING:
    from ..api.client.connection import Connection

SOURCES = ("dataset", "eval_dataset")
FILE = "file-"
"""The beginning of a server's id of a file."""

Judge = Callable[[Path, bool], None]
"""Refuses a file before it is sent; the second argument is True for the rows to train on."""


def send_files(
    connection: "Connection",
    fields: Fields,
    judge: Judge | None = None,
    *,
    passing: bool = False,
    sent: dict[str, SentFile] | None = None,
) -> dict[str, SentFile]:
    """Send the files of a job's sources and return them by source; a source that is an id of the server is left out.

    Args:
        connection: The connection to the server.
        fields: The fields of the job.
        judge: Refuses a file before any is sent.
        passing: Send the files for a short time; a file that the server has anyway is used as it is.
        sent: The dict to fill, for a caller that must know what was sent before an error.

    Raises:
        DataError: A dataset is neither a file here nor one on the server, or is refused.
        CeloraError: The server refuses a file, or does not answer.
    """
    with ExitStack() as undo:
        scratch = Path(undo.enter_context(TemporaryDirectory(prefix="celora-send-")))
        paths = {
            source: undo.enter_context(one_file(_here(source), scratch, held_out=number > 0))
            for number, source in enumerate(_named(fields))
            if not _is_sent(source)
        }
        if judge is not None:
            for source, path in paths.items():
                judge(path, source == str(fields["dataset"]))
        sent = {} if sent is None else sent
        for source, path in paths.items():
            sent[source] = _upload(connection, path, passing=passing)
        return sent


def with_ids(fields: Fields, sent: Mapping[str, SentFile]) -> Fields:
    """Return the fields of a job with the ids of sent files in the place of their paths."""

    def id_of(source: object) -> str:
        return sent[str(source)].id if str(source) in sent else str(source)

    placed = {**fields, **{name: id_of(fields[name]) for name in SOURCES if fields.get(name)}}
    if required := _required(fields):
        placed["gate"] = {**cast("Fields", fields["gate"]), "must_pass": id_of(required)}
    return placed


def _named(fields: Fields) -> list[str]:
    """List the sources of a job's fields, the rows to train on first, each once."""
    named = [str(fields[name]) for name in SOURCES if fields.get(name)]
    return list(dict.fromkeys([*named, *filter(None, [_required(fields)])]))


def _required(fields: Fields) -> str | None:
    gate = cast("Mapping[str, object]", fields.get("gate") or {})
    return str(gate["must_pass"]) if gate.get("must_pass") else None


def _is_sent(source: str) -> bool:
    return source.startswith(FILE) and not Path(source).exists()


def _here(source: str) -> str:
    if is_remote(source) or not is_file(source):
        raise DataError(
            f"the dataset {source} is no file here.", hint="A server takes files of this machine, or ids of its own."
        )
    if not Path(source).exists() and not is_several(source):
        raise DataError(f"the dataset {source} is no file here.", hint="Check the path.")
    return source


def _upload(connection: "Connection", path: Path, *, passing: bool) -> SentFile:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=28), DownloadColumn())
    out = progress_console()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(f"sending {path.name}", total=path.stat().st_size)
        return upload(connection, path, lambda size_bytes: bar.advance(task, size_bytes), passing=passing)
