"""Opens the files of a local base: only regular files of bounded size below the folders that an operator allowed.

A library opens the files of a base by name, and a name can be pointed elsewhere after the check. So where the
allowed folders are limited, a base is loaded through a *view*: a folder of links to the descriptors that were checked.
A view exists as long as its process. A killed process leaves links behind, which the next process removes.
"""

import atexit
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import uuid4

from ...errors import BadBaseError, BaseModelError, CeloraError, DataError
from ...storage.file_lock import locked, locked_if_free
from ...storage.paths import confine
from ...storage.regular_files import file_name, open_confined, open_regular

P = ParamSpec("P")
T = TypeVar("T")
READ = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
"""Patterns of the files that a library may open in the folder of a base."""
TEMPLATES = "additional_chat_templates"
"""The one folder inside a base that transformers reads."""
BESIDE_GGUF = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json",
               "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip
"""Names of the files that transformers may open beside a ``.gguf`` file."""
TEXT_BYTES = 256 * 2**20
"""Size limit of a base's file that is read as a whole; the largest tokenizer.json in use has 33 MB."""
VIEWS = "views"

_views: dict[tuple[object, ...], Path] = {}
_places: dict[Path, Path] = {}
"""Base folder of each view."""
_held = ExitStack()
atexit.register(_held.close)


def judge_files(paths: Iterable[Path]) -> None:
    """Refuse files that are not regular files; links are followed.

    Raises:
        BadBaseError: A file is a FIFO, a socket, a device or missing.
    """
    for path in paths:
        with _as_base_error(), open_regular(path, what="the base's file"):
            pass


def confine_base(source: str, roots: Iterable[Path]) -> None:
    """Refuse a local base outside of the allowed folders.

    Args:
        source: The absolute path of a folder or a ``.gguf`` file.
        roots: The allowed folders.

    Raises:
        BaseModelError: The path leads out of every root.
    """
    try:
        confine(source, roots)
    except DataError as error:
        raise BaseModelError(f"the base model {error.message}", hint=error.hint) from None


def files_of(folder: Path) -> list[Path]:
    """Return the files of a base's folder that a library may open."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if any(fnmatch(entry.name, pattern) for pattern in READ))
    more = folder / TEMPLATES
    return [*(folder / name for name in names), *(sorted(more.glob("*.jinja")) if more.is_dir() else [])]


def files_with(gguf: Path) -> list[Path]:
    """Return a ``.gguf`` file and the files beside it that a library may open."""
    return [gguf, *(path for name in BESIDE_GGUF if os.path.lexists(path := gguf.parent / name))]


def view(base: Path, files: Sequence[Path], roots: Iterable[Path], cache: Path) -> Path:
    """Make a folder of links to open, checked descriptors of a base's files; unchanged files keep their folder.

    Args:
        base: The folder of the base, or of its ``.gguf`` file.
        files: The files in that folder.
        roots: The allowed folders.
        cache: The installation's cache.

    Raises:
        BaseModelError: A file leads out of every root, is not a regular file, or can't be read.
    """
    allowed = list(roots)
    with ExitStack() as opened:
        handles: list[tuple[Path, int]] = []
        for path in files:
            with _as_base_error():
                file = opened.enter_context(open_confined(str(path), allowed, what="the base's file"))
            handles.append((path.relative_to(base), file.fileno()))
        key = (base, *((name, *_identity(handle)) for name, handle in handles))
        if key not in _views:
            _views[key] = _linked(file_name(base, "base"), handles, cache / VIEWS)
            _places[_views[key]] = base
            _held.push(opened.pop_all())
        return _views[key]


def names_as_given(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that reads bases so that its errors name the bases' own folders, not the views."""

    @wraps(read)
    def named(*args: P.args, **options: P.kwargs) -> T:
        try:
            return read(*args, **options)
        except BaseModelError as error:
            for folder, place in _places.items():
                error.message = error.message.replace(str(folder), str(place))
            error.args = (f"{error.message} {error.hint}".strip(),)
            raise

    return named


def read_text(path: Path) -> str:
    """Read the text of a small file of a base.

    Raises:
        BadBaseError: The file is not a regular file, too large, or not UTF-8.
    """
    with _as_base_error(), open_regular(path, what="the base's file") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > TEXT_BYTES:
            raise BadBaseError(f"{path} has {size_bytes:,} bytes; at most {TEXT_BYTES:,} are read.")
        with readable(path):
            return file.read(TEXT_BYTES).decode()


def malformed(path: Path, error: BaseException) -> BadBaseError:
    """Make the error for a malformed file of a base from the exception that its reader raised."""
    if isinstance(error, RecursionError):
        return BadBaseError(f"{path} is nested too deeply.")
    words = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return BadBaseError(f"{path} can't be read: {words}", hint="Look whether the file is whole, or fetch it again.")


@contextmanager
def readable(path: Path, refusal: Callable[[Path, BaseException], BadBaseError] = malformed) -> Generator[None]:
    """Translate any exception that a library raises over a malformed file of a base.

    A panic of a library that is written in Rust is a BaseException. A lack of memory is not a fault of the file.

    Args:
        path: The file.
        refusal: Makes the error to raise.

    Raises:
        BadBaseError: Made by ``refusal``.
    """
    try:
        yield
    except (CeloraError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise refusal(path, error) from error


@contextmanager
def panics_explained(base: Path) -> Generator[None]:
    """Translate the panic of a base's tokenizer over a text; every other error passes unchanged."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise malformed(base, error) from error


def is_panic(error: BaseException) -> bool:
    """Return whether an error is the panic of a library that is written in Rust."""
    return type(error).__name__ == "PanicException"


@contextmanager
def _as_base_error() -> Generator[None]:
    try:
        yield
    except DataError as error:
        raise BadBaseError(error.message, hint=error.hint) from error


def _identity(handle: int) -> Iterator[int]:
    """Yield the values that change when a file is written or replaced; no program can set the change time (ctime)."""
    state = os.fstat(handle)
    yield from (state.st_dev, state.st_ino, state.st_size, state.st_ctime_ns, stat.S_IFMT(state.st_mode))


def _linked(name: str, handles: Iterable[tuple[Path, int]], views: Path) -> Path:
    """Make a folder of links; this process holds the folder's lock, so that other processes see that it is in use."""
    views.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(views)
    place = views / uuid4().hex
    _held.enter_context(locked(place.with_suffix(".lock")))
    _held.callback(_remove, place)
    folder = place / name
    folder.mkdir(parents=True)
    for inside, handle in handles:
        link = folder / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/proc/self/fd/{handle}")
    return folder


def _remove_abandoned(views: Path) -> None:
    for lock in views.glob("*.lock"):
        with locked_if_free(lock) as held:
            if held is not None:
                _remove(lock.with_suffix(""))


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.with_suffix(".lock").unlink(missing_ok=True)
