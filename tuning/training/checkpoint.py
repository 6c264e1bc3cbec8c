"""Writes, finds and deletes checkpoints. A checkpoint is committed whole or not at all; only its own run continues it.

A checkpoint is the folder ``checkpoints/step-<k>``. It is staged in the same folder as ``.tmp-<attempt>-<k>``, flushed,
given its manifest last and renamed (storage.manifest), so that a kill at any point leaves the older checkpoints
unchanged. The manifest carries the settings that determine the run and their hash; a run with other settings is
refused, and the error names the differences. Settings that may change without changing the run are left out (how often
it saves, how a batch is cut into passes).

No torch here: the engine alone decides about the files that it writes into the folder.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import SettingsError
from ...settings.failpoints import hit
from ...storage.disk_space import room
from ...storage.manifest import MANIFEST, commit, files_below


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Return one hash for the settings that determine a run; equal settings give equal hashes on every machine."""
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
        step: The number of finished optimizer steps.
        attempt: The fencing number, part of the staged name.
        settings: The settings that determine the run, as JSON types.
        versions: Versions of the libraries that wrote the checkpoint.
        fill: Writes the files into the staged folder.
        need_bytes: The size of the files, if it is known; without that much free space nothing is written.

    Returns:
        The folder and the size of its files in bytes.

    Raises:
        DiskFullError: The disk has no space; the staged files are removed, older checkpoints are unchanged.
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


def require_same_run(
    folder: Path, manifest: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse the checkpoint of a run with other settings or data.

    Args:
        folder: Folder of the checkpoint.
        manifest: Its manifest.
        settings: Settings of the run that would resume.
        defaults: Values of the recipe's fields in a checkpoint that was written before the fields existed.

    Raises:
        SettingsError: The message names each difference.
    """
    if manifest.get("settings_sha256") == settings_sha256(settings):
        return
    saved = dict(manifest.get("settings") or {})
    recipe = settings.get("recipe", {})
    saved["recipe"] = {name: value for name, value in (defaults or {}).items() if name in recipe} | saved.get(
        "recipe", {}
    )
    if differences := list(_differences(saved, settings)):
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
    """Return every committed checkpoint below a folder, the newest first; staged folders do not count."""
    if not root.is_dir():
        return []
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in root.glob("step-*")
        if path.name.removeprefix("step-").isdigit() and (path / MANIFEST).is_file()
    ]
    return sorted(found, reverse=True)


def prune(root: Path, keep: int, pinned: Path | None = None) -> None:
    """Delete all checkpoints but the newest ``keep`` (at least one), and never the one that the run resumed from."""
    for _, path in committed(root)[max(1, keep) :]:
        if pinned is None or path.resolve() != pinned.resolve():
            (path / MANIFEST).unlink()  # first, so that a half-deleted folder is nobody's checkpoint
            hit("prune.unlinked")
            shutil.rmtree(path)
