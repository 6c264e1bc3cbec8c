"""Translates the settings of an installation into the limits of the trainer program."""

from pathlib import Path

from ...settings.settings import Settings
from ...tuning.protocol import Limits, SourceAccess


def prepare_limits(settings: Settings) -> Limits:
    """Build the resource limits of a process that reads a dataset."""
    return Limits(
        memory_bytes=settings.prepare_memory_bytes,
        cpu_s=settings.prepare_cpu_s,
        file_bytes=settings.prepare_file_bytes,
        wall_s=settings.prepare_wall_s,
    )


def source_access(settings: Settings) -> SourceAccess:
    """Build the allowed origins of datasets, and the size of the largest."""
    roots = [*settings.allowed_roots, settings.scratch]
    if settings.artifacts.startswith("file://"):
        roots.append(Path(settings.artifacts.removeprefix("file://")))
    return SourceAccess(
        allowed_schemes=settings.allowed_schemes,
        allowed_hosts=settings.allowed_hosts,
        max_bytes=settings.prepare_file_bytes,
        local_roots=[str(root) for root in roots],
    )
