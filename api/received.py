"""Receives the one file of a multipart request into storage; of a request that fails, nothing stays."""

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from fastapi import Request

from ..errors import RequestError
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..storage.incoming import IncomingFile
from .body import check_length, chunks, too_large
from .multipart import OVERHEAD_BYTES, MultipartForm

Kept = TypeVar("Kept")


def check_file_length(request: Request, most_bytes: int) -> None:
    """Refuse a request whose announced length leaves room for a file of more bytes than the limit.

    Raises:
        RequestError: It is too long, compressed, or its length is no number.
    """
    check_length(request, most_bytes + OVERHEAD_BYTES)


async def receive_file(
    request: Request, name: str, most_bytes: int, keep: Callable[[IncomingFile, MultipartForm], Kept]
) -> Kept:
    """Write the file of a request to storage as it arrives, and have it kept.

    Args:
        request: The request.
        name: The name of the form's field that is the file.
        most_bytes: The size of the largest file.
        keep: Judges the fields and records the file; it commits the content, which is removed otherwise.

    Raises:
        RequestError: The body is refused (``chunks``, ``MultipartForm``), or the file is missing, empty or too large.
    """
    check_file_length(request, most_bytes)
    incoming = IncomingFile(Artifacts(get_settings().artifacts))

    async def write(part: bytes) -> None:
        if incoming.size_bytes + len(part) > most_bytes:
            raise too_large(most_bytes)
        await anyio.to_thread.run_sync(incoming.write, part)

    form = MultipartForm(request.headers, name, write)
    try:
        await form.read(chunks(request, most_bytes + OVERHEAD_BYTES))
        if form.filename is None:
            raise RequestError(f"{name} is missing.", reason="missing_required_parameter", param=name)
        if not incoming.size_bytes:
            raise RequestError(f"{name}: it is empty.", param=name)
        return await anyio.to_thread.run_sync(keep, incoming, form)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(incoming.abandon)
