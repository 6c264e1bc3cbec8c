"""Receives a committed folder beside its place, verifies it by its manifest, and moves it there in one step."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ..errors import StorageError
from .disk_space import disk_full, is_no_space
from .manifest import files_below, verify_manifest


@contextmanager
def receive_folder(target: Path, *, what: str) -> Generator[Path]:
    """Yield an empty folder to fill; afterwards it is verified and becomes the target.

    Args:
        target: The folder's place: missing, or empty.
        what: Names the content in an error.

    Raises:
        StorageError: A file is missing, changed, or not in the manifest; or the target can't be written. Nothing is
            left behind.
    """
    staged = target.with_name(f".{target.name}-{uuid4().hex[:8]}.part")  # a name of nobody else's folder
    try:
        staged.mkdir(parents=True)
        yield staged
        named = {str(entry["name"]) for entry in verify_manifest(staged)["files"]}
        if more := sorted(set(files_below(staged)) - named):
            raise StorageError(f"{what} came with a file that its manifest does not name: {more[0]}.")
        if target.exists():
            target.rmdir()
        staged.rename(target)
    except OSError as error:
        if is_no_space(error):
            raise disk_full(target, what=what, error=error, hint="Free space there, or give another folder.") from error
        raise StorageError(f"{target} can't be written ({error}).", hint="Give another folder.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
