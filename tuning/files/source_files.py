"""Makes every source of a request a local path: fetches remote ones, pins local ones, lays out the parts of folders.

A local file is judged again here, by the descriptor that is read: its name may point elsewhere since the submit. The
path that is read ends in the file's name as its user knows it, so that faults and receipts name it so.
"""

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from ...storage.paths import confine
from ...storage.regular_files import file_name, pinned
from .. import resource_limits
from ..protocol import Emit, PrepareRequest
from .parts import parts_of
from .sources import fetch, is_remote, judge
from .suffixes import dataset_name, fixed_folder, is_several

TRAIN = "train"
Result = TypeVar("Result")


def fetching(
    work: Callable[[PrepareRequest, Emit], Result],
) -> Callable[[PrepareRequest, Emit], Result]:
    """Wraps work: the sources of its request become local paths before it, and what that made is removed after it.

    Limits on reading foreign data do not apply during a fetch, which has a limit of its own.
    """

    def fetched(request: PrepareRequest, emit: Emit) -> Result:
        sources = {TRAIN: request.dataset, **request.eval_datasets}
        folder = resource_limits.fetched(Path(request.out_dir))
        shutil.rmtree(folder, ignore_errors=True)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            local = {
                name: str(_local(name, source, folder / str(number), request, emit, undo))
                for number, (name, source) in enumerate(sources.items())
            }
            return work(request.model_copy(update={"dataset": local.pop(TRAIN), "eval_datasets": local}), emit)

    return fetched


@contextmanager
def one_file(source: str, folder: Path, *, held_out: bool = False) -> Generator[Path]:
    """Yields a local source as one file: a file as it is, a folder or pattern as a ``.jsonl`` of all its rows.

    Args:
        source: A file, a folder or a pattern, read with the rights of this process.
        folder: The folder for a temporary file.
        held_out: As in ``parts_of``.

    Raises:
        DataError: No file belongs to the source, or a line of a file is no row.
    """
    if not is_several(source):
        yield Path(source)
        return
    parts = parts_of(source, held_out=held_out)
    if len(parts) == 1:
        yield next(iter(parts.values()))
        return
    from .readers import join  # noqa: PLC0415  (a program that only judges a source needs no reader)

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parts-", dir=folder) as scratch:
        whole = Path(scratch) / f"{dataset_name(source)}.jsonl"
        join(parts, whole, dataset=source)
        yield whole


def _local(  # noqa: PLR0917  (the parts of one request)
    name: str, source: str, folder: Path, request: PrepareRequest, emit: Emit, undo: ExitStack
) -> Path:
    """Returns the path to read a source by: of its download, or of links that pin the local files."""
    if is_remote(source):
        remote = judge(source, request.sources)
        with resource_limits.lifted():
            return fetch(remote, folder, request, emit)
    roots = request.sources.local_roots
    if roots is not None:
        confine(fixed_folder(source), map(Path, roots))
    called = request.file_names.get(name)
    if is_several(source):
        allowed = None if roots is None else [Path(root) for root in roots]
        parts = parts_of(source, held_out=name != TRAIN, roots=allowed)
        if len(parts) > 1:
            for part, path in parts.items():
                _link(path, folder / dataset_name(source) / part, roots, undo)
            return folder / dataset_name(source)
        source = str(next(iter(parts.values())))
    if roots is None and not called:
        return Path(source)
    return _link(Path(source), folder / file_name(called or source, "rows"), roots, undo)


def _link(path: Path, link: Path, roots: list[str] | None, undo: ExitStack) -> Path:
    """Makes a link to a file, which pins the file where its folder is judged; returns the link."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if roots is None:
        link.symlink_to(path.absolute())
        return link
    return undo.enter_context(pinned(str(path), map(Path, roots), link))
