"""Checkpoints of a training run: committed whole or not at all, and only continued by the run that they belong to.

A checkpoint is the folder ``checkpoints/step-<k>``. It is staged beside that place as ``.tmp-<attempt>-<k>``, flushed,
given its manifest last and renamed (storage.manifest), so that a kill at any point leaves the older ones as they were.
The manifest carries the settings that shape the run and their hash; a run with other settings is refused, with what
differs. Not in them: what may change without changing the run (how often it saves, how a batch is cut into passes).

No torch here: what an engine writes into the folder is the engine's own business.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..settings.errors import CeloraError, DiskFullError, SettingsError, StorageError
from ..settings.failpoints import hit
from ..storage.manifest import MANIFEST, commit, files_below, verify_manifest

PROGRESS = "progress.json"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_SPACE_WORDS = r"os error (28|122|27)\b|No space left|File too large|unexpected pos|PytorchStreamWriter failed"
MARGIN_BYTES = 2**20
"""What must stay free beside a write: folders, manifest and journal take some too."""


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """One hash for the settings that shape a run; equal settings give equal hashes on every machine."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def write(
    root: Path,
    step: int,
    *,
    attempt: int,
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    fill: Callable[[Path], None],
    need_bytes: int = 0,
) -> tuple[Path, int]:
    """Commit one checkpoint.

    Args:
        root: The attempt's ``checkpoints`` folder.
        step: Optimizer steps done.
        attempt: The fencing number, part of the staged name.
        settings: What shapes the run, JSON-able.
        versions: Versions of the libraries that wrote it.
        fill: Writes the files into the staged folder.
        need_bytes: Room that the files will take, if it is known: refused before a byte is written when it is not free.

    Returns:
        The folder and the size of its files in bytes.

    Raises:
        DiskFullError: No space; nothing is left of the attempt, older checkpoints are untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    staged, final = root / f".tmp-{attempt}-{step}", root / f"step-{step}"
    hit("save.begin")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with room(root, need_bytes):
            staged.mkdir()
            fill(staged)
            hit("save.filled")
            commit(
                staged,
                final,
                step=step,
                attempt=attempt,
                settings=dict(settings),
                settings_sha256=settings_sha256(settings),
                versions=dict(versions),
            )
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    hit("save.committed")
    return final, sum((final / name).stat().st_size for name in files_below(final))


@contextmanager
def room(folder: Path, need_bytes: int) -> Generator[None]:
    """Check for space before a write, and turn "no space" during it into an error that names path, need and free.

    Raises:
        DiskFullError: ENOSPC, EDQUOT or EFBIG in any library's words, or less free than needed before it began.
    """
    free = shutil.disk_usage(folder).free
    if need_bytes and free < need_bytes + MARGIN_BYTES:
        raise _disk_full(folder, need_bytes, free)
    try:
        yield
    except CeloraError:
        raise  # it names the place already
    except Exception as error:
        if not no_space(error):
            raise
        raise _disk_full(folder, need_bytes, shutil.disk_usage(folder).free, error) from error


def no_space(error: Exception) -> bool:
    """Whether a write failed for lack of space; torch and safetensors say so in words of their own."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return re.search(NO_SPACE_WORDS, str(error)) is not None


def _disk_full(folder: Path, need_bytes: int, free: int, error: Exception | None = None) -> DiskFullError:
    need = f"{need_bytes / 2**20:.1f} MiB" if need_bytes else "more than that"
    cause = f" ({str(error).splitlines()[0]})" if error is not None else ""
    return DiskFullError(
        f"No space left at {folder}{cause}: needs {need}, free {free / 2**20:.1f} MiB.",
        hint="Free space there, or point CELORA_HOME or the scratch folder at a larger disk; then retry the job.",
        facts={"path": str(folder), "need_bytes": need_bytes, "free_bytes": free},
    )


def read(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Verify a checkpoint and that it is of the same run; its manifest.

    Raises:
        StorageError: It is torn or was changed.
        SettingsError: It belongs to a run with other settings or data; the message names each difference.
    """
    manifest = verify_manifest(folder)
    require_same_run(folder, manifest, settings)
    return manifest


def require_same_run(folder: Path, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of a run with other settings or data.

    Raises:
        SettingsError: The message names each difference.
    """
    if manifest.get("settings_sha256") != settings_sha256(settings):
        differences = list(_differences(manifest.get("settings") or {}, settings))
        raise SettingsError(
            f"The checkpoint {folder.name} belongs to a run with other settings: {'; '.join(differences)}.",
            hint="Submit a new job for the new settings, or retry with those of the checkpoint.",
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield f"{prefix}{name} was {before!r} and is {after!r}"


def committed(root: Path) -> list[tuple[int, Path]]:
    """Every committed checkpoint below a folder, the newest first; what is only staged does not count."""
    if not root.is_dir():
        return []
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in root.glob("step-*")
        if path.name.removeprefix("step-").isdigit() and (path / MANIFEST).is_file()
    ]
    return sorted(found, reverse=True)


def newest(root: Path, rejected: Callable[[Path, StorageError], None] = lambda _path, _error: None) -> Path | None:
    """The newest checkpoint whose manifest verifies; None where there is none.

    Args:
        root: A ``checkpoints`` folder.
        rejected: Told of each newer one that is torn or was changed, and why.
    """
    for _, path in committed(root):
        try:
            verify_manifest(path)
        except StorageError as error:
            rejected(path, error)
        else:
            return path
    return None


def prune(root: Path, keep: int, pinned: Path | None = None) -> None:
    """Delete all but the newest ``keep`` (at least one); never the one that the run was resumed from."""
    for _, path in committed(root)[max(1, keep) :]:
        if pinned is None or path.resolve() != pinned.resolve():
            (path / MANIFEST).unlink()  # first, so that a half-deleted folder is nobody's checkpoint
            hit("prune.unlinked")
            shutil.rmtree(path)


def write_progress(folder: Path, progress: Mapping[str, Any]) -> None:
    """Where the run stands, beside the engine's own files; floats keep every bit."""
    (folder / PROGRESS).write_text(json.dumps(dict(progress)), encoding="utf-8")


def read_progress(folder: Path) -> dict[str, Any]:
    """What ``write_progress`` wrote."""
    return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
