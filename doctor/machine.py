"""Checks this machine for `celora doctor`: folders, disks, limits and devices. Loads no torch."""

import os
import platform
import resource
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ..errors import CeloraError, StorageError
from ..settings.gpus import GIB, gpu_catalogue
from ..settings.permissions import GROUP, PRIVATE, too_open
from ..settings.settings import Settings
from ..storage.artifacts import Artifacts
from ..workers.gpu import devices, driver
from .finding import Finding, fail, ok, refused, warn

PATIENCE_S = 4.0
AMPLE = 4
"""Multiple of the least free space above which a disk's free space counts as ample."""
LEAST_FILES = 1024
LEAST_SHM_BYTES = GIB


def machine(settings: Settings) -> Iterator[Finding]:
    """Report celora's version; check CELORA_HOME and the limits of the process."""
    yield ok("celora", f"{metadata.version('celora')} on Python {platform.python_version()}, {platform.node()}")
    yield home(settings.home)
    if settings.home.exists():
        yield permissions(settings)
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def home(folder: Path) -> Finding:
    """Check that CELORA_HOME can be written, or made where it does not exist yet."""
    check = "home"
    there = nearest(folder)
    try:
        if not there.is_dir():
            raise NotADirectoryError(20, "is no folder", str(there))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        found = f"{folder} can't be written: {there} {'is no folder' if not there.is_dir() else error.strerror}"
        return fail(check, found, "Give its owner the right to write there, or set CELORA_HOME to another folder.")
    return ok(check, f"{folder} can be written" if folder.exists() else f"{folder} is made at the first use")


def permissions(settings: Settings) -> Finding:
    """Check that CELORA_HOME admits its owner only, and its group where CELORA_SHARE_FILES is set."""
    check, mode = "home.permissions", GROUP if settings.share_files else PRIVATE
    if excess := too_open(settings.home, mode):
        fix = f"Run `chmod {mode:o} {settings.home}`; `celora up` and each worker do it where they own the folder."
        return warn(check, f"other users of this machine can enter {settings.home} (mode {excess:o})", fix)
    return ok(check, f"{settings.home} lets in {'its group' if settings.share_files else 'its owner'} only")


def storage(settings: Settings) -> Iterator[Finding]:
    """Write a file to the artifacts, read it back, and remove it."""
    check, root = "storage", settings.artifacts
    try:
        yield ok(check, f"{root} {_written(root)}")
    except CeloraError as error:
        fix = error.hint or "Give celora's user the right to write there, or set CELORA_ARTIFACT_ROOT."
        yield fail(check, f"the artifacts at {root} can't be written: {error.message}", fix)
    except OSError as error:
        fix = "Give celora's user the right to write there, or set CELORA_ARTIFACT_ROOT."
        yield fail(check, f"the artifacts at {root} can't be written: {error.strerror or error}", fix)


def disks(settings: Settings, least_free_bytes: float) -> Iterator[Finding]:
    """Measure the free space for artifacts, checkpoints and base models; one finding a disk."""
    artifacts = Artifacts(settings.artifacts)
    places = {"CELORA_HOME": settings.home, "the base models": settings.cache}
    if (local := artifacts.local_path(artifacts.uri("jobs"))) is not None:
        places["the artifacts"] = local.parent
    by_disk: dict[int, tuple[list[str], Path]] = {}
    for what, folder in places.items():
        there = nearest(folder)
        by_disk.setdefault(there.stat().st_dev, ([], there))[0].append(what)
    for names, there in by_disk.values():
        usage = shutil.disk_usage(there)
        yield room(", ".join(names), usage.free, usage.total, least_free_bytes)


def room(what: str, free_bytes: int, total_bytes: int, least_bytes: float) -> Finding:
    """Judge the free space of a disk."""
    check = "disk"
    found = f"{free_bytes / GIB:.1f} of {total_bytes / GIB:.0f} GiB are free for {what}"
    fix = "Free space there, shorten CELORA_KEEP_CHECKPOINT_DAYS, or remove bases: `celora bases remove NAME`."
    if free_bytes < least_bytes:
        return fail(check, f"only {found}, and {least_bytes / GIB:.4g} should be", fix)
    if free_bytes < AMPLE * least_bytes:
        return warn(check, f"only {found}", fix)
    return ok(check, found)


def gpus(settings: Settings) -> Iterator[Finding]:
    """Report the driver and the devices that the catalogue knows."""
    check = "gpu"
    try:
        here = driver()
        found = devices(gpu_catalogue(settings.gpus))
    except CeloraError as error:
        yield refused(check, error)
        return
    if here is None or not found:
        yield ok(check, "no NVIDIA device: a worker of this machine trains on its CPU")
        return
    names = ", ".join(f"{one.name} ({one.gpu_type}, {one.memory_bytes / GIB:.0f} GiB)" for one in found)
    yield ok(check, f"{names}; driver {here.version} for CUDA up to {here.cuda[0]}.{here.cuda[1]}")
    yield shared_memory(Path("/dev/shm"))  # noqa: S108  (the mount itself, nothing is written)


def open_files(limit: int) -> Finding:
    """Judge the limit of open files: a worker holds a connection or a pipe for each of its peers."""
    check = "limits.files"
    if 0 <= limit < LEAST_FILES:
        fix = f"Raise it: `ulimit -n {4 * LEAST_FILES}`, or LimitNOFILE= in the unit."
        return warn(check, f"a process may open {limit} files", fix)
    return ok(check, f"a process may open {limit} files" if 0 <= limit < sys.maxsize else "no limit of open files")


def shared_memory(mount: Path) -> Finding:
    """Judge the shared memory: containers get 64 MiB by default, and CUDA libraries need more."""
    check = "limits.shm"
    if not mount.is_dir():
        return warn(check, f"there is no {mount}", "Mount a tmpfs there.")
    size = shutil.disk_usage(mount).total
    if size < LEAST_SHM_BYTES:
        fix = "Start the container with --shm-size=1g, or mount a memory-backed volume there."
        return warn(check, f"{mount} has {size / 2**20:.0f} MiB", fix)
    return ok(check, f"{mount} has {size / GIB:.1f} GiB")


def nearest(folder: Path) -> Path:
    """Find the folder itself, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _written(root: str) -> str:
    """Write, read and remove a file below the root; return the end of the finding's sentence."""
    artifacts = Artifacts(root, patience_s=PATIENCE_S)
    local = artifacts.local_path(artifacts.uri("doctor"))
    if local is not None and not local.parent.exists():
        there = nearest(local.parent)
        with tempfile.TemporaryFile(dir=there):
            return "is made at the first use"
    uri, content = artifacts.uri("doctor", f"{uuid.uuid4().hex}.txt"), uuid.uuid4().bytes
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        artifacts.put_file(Path(file.name), uri)
    try:
        if artifacts.read_bytes(uri) != content:
            raise StorageError(f"{uri} came back with another content.", hint="Look at the store's own log.")
    finally:
        artifacts.remove(uri)
        if local is not None:
            local.rmdir()
    return "takes a file, gives it back and removes it"
