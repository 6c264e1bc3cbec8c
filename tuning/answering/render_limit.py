"""Limits time and memory of the chat template, which is foreign code, while it renders one conversation of a chat.

These are the limits of the data path (``tuning.resource_limits``). A template that goes beyond its time cannot be
interrupted: its client is answered and the process ends. Other clients that wait are asked for by the API again, from
the next host.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ...errors import BaseModelError, CeloraError
from .. import resource_limits
from ..protocol import Limits
from ..templates.tokenizer_calls import TemplateRefusalError
from .messages import Refused

RENDER_BYTES = 1 << 30
"""Memory that a template may take beside what the process has."""


class Reader(Protocol):
    """Whoever reads the answer."""

    def send(self, event: Refused) -> None:
        """Send an event."""
        ...


@contextmanager
def limited(reader: Reader, *, device: str, render_s: int | None = None) -> Generator[None]:
    """Limit the rendering in a block.

    Args:
        reader: Whoever reads the answer.
        device: ``cpu`` or ``cuda``; CUDA reserves more address space than any limit, so only the time is limited then.
        render_s: Seconds; those of the data path unless given.

    Raises:
        TemplateRefusalError: The template needs too much memory.
    """

    def end(error: CeloraError) -> None:
        reader.send(Refused(code="bad_prompt", message=error.message))
        os._exit(error.exit_code)

    memory_bytes = _data_bytes() + RENDER_BYTES if device == "cpu" else 0
    limits = Limits(memory_bytes=memory_bytes, **({} if render_s is None else {"render_s": render_s}))
    with resource_limits.imposed(limits, end):
        try:
            yield
        except BaseModelError as error:
            raise TemplateRefusalError(error.message.rstrip(".")) from error


def _data_bytes() -> int:
    """Return the size of this process's data as the kernel limits it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), 0)
