"""The limits of an installation, as the trainer program takes them."""

from ..settings.settings import Settings
from ..tuning.protocol import Limits, SourceAccess


def prepare_limits(settings: Settings) -> Limits:
    """What a process may take that reads a dataset."""
    return Limits(
        memory_bytes=settings.prepare_memory_bytes,
        cpu_s=settings.prepare_cpu_s,
        file_bytes=settings.prepare_file_bytes,
        wall_s=settings.prepare_wall_s,
    )


def source_access(settings: Settings) -> SourceAccess:
    """Where datasets may be fetched from, and how large they may be."""
    return SourceAccess(
        allowed_schemes=settings.allowed_schemes,
        allowed_hosts=settings.allowed_hosts,
        max_bytes=settings.prepare_file_bytes,
    )
