"""Parses a multipart body as it arrives: small fields are kept, the one file goes to a sink part by part.

Unusual: ``UploadFile`` is not used. It spools a file to ``$TMPDIR`` first and has it copied from there, and it reads
the whole body before the key is judged. Here the bytes of the file are written once, and while the sink writes and
hashes a part on a thread, the next one arrives.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine

import anyio
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from ..errors import RequestError

Sink = Callable[[bytes], Coroutine[None, None, None]]
"""Receives the bytes of the file, in order."""

MOST_FIELDS = 32
MOST_FIELD_BYTES = 8 << 10
MOST_HEADER_BYTES = 8 << 10
BUFFER_BYTES = 1 << 20
"""Bytes of the file that are collected before they go to the sink."""
OVERHEAD_BYTES = 1 << 20
"""Bytes that the fields and the marks between them may add to a file."""


class MultipartForm:
    """The fields of a multipart body and the name of its file.

    Args:
        headers: The headers of the request.
        file_field: The name of the field that is the file.
        sink: Receives the file.

    Raises:
        RequestError: The content type is no multipart form with a boundary.
    """

    def __init__(self, headers: Headers, file_field: str, sink: Sink) -> None:
        kind, options = parse_options_header(headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise RequestError("the body must be multipart/form-data with a file.", reason="invalid_value")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._file_field, self._sink = file_field, sink
        self._name, self._is_file, self._value = "", False, bytearray()
        self._header_name, self._header_value, self._headers = bytearray(), bytearray(), dict[str, bytes]()
        self._pending, self._pending_bytes = list[bytes](), 0
        self._sinking: asyncio.Task[None] | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header_name,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def read(self, parts: AsyncGenerator[bytes]) -> None:
        """Read the whole body.

        Raises:
            RequestError: It is no well-formed multipart body, has two files, or a field that is too large.
        """
        try:
            await self._parse(parts)
            await self._pass_on()
            await self._passed_on()
        except MultipartParseError:
            raise RequestError("the multipart body is malformed.", reason="invalid_value") from None
        finally:
            with anyio.CancelScope(shield=True):
                await self._settle()

    async def _parse(self, parts: AsyncGenerator[bytes]) -> None:
        async for part in parts:
            self._parser.write(part)
            if self._pending_bytes >= BUFFER_BYTES:
                await self._pass_on()
        self._parser.finalize()
        if not self._ended:
            raise RequestError("the multipart body ends before its last part.", reason="invalid_value")

    async def _pass_on(self) -> None:
        """Give the collected bytes to the sink once it has those before."""
        await self._passed_on()
        if self._pending:
            part = b"".join(self._pending)
            self._pending, self._pending_bytes = [], 0
            self._sinking = asyncio.create_task(self._sink(part))

    async def _passed_on(self) -> None:
        """Wait until the sink has what it was given, and raise its error."""
        if self._sinking is not None:
            await asyncio.shield(self._sinking)
            self._sinking = None

    async def _settle(self) -> None:
        """Wait for the sink after another error, so that nothing is written any more."""
        if self._sinking is not None:
            await asyncio.wait({self._sinking})
            with contextlib.suppress(asyncio.CancelledError):
                self._sinking.exception()  # asyncio complains of errors that nobody looked at

    def _begin(self) -> None:
        self._name, self._is_file, self._headers, self._value = "", False, {}, bytearray()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._bound(self._header_name, MOST_HEADER_BYTES)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._bound(self._header_value, MOST_HEADER_BYTES)

    def _on_header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._is_file = filename is not None and self._name == self._file_field
        if filename is not None and not self._is_file:
            raise RequestError(f"{self._name[:100]} is no file of this request.", reason="unknown_parameter")
        if not self._is_file:
            return
        if self.filename is not None:
            raise RequestError(f"{self._file_field} stands twice.", param=self._file_field)
        self.filename = (filename or b"").decode("utf-8", "replace")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pending.append(data[start:end])
            self._pending_bytes += end - start
            return
        self._value += data[start:end]
        self._bound(self._value, MOST_FIELD_BYTES)

    def _on_part_end(self) -> None:
        if self._is_file:
            return
        if self._name in self.fields:
            raise RequestError(f"{self._name[:100]} stands twice.", param=self._name[:100])
        if len(self.fields) >= MOST_FIELDS:
            raise RequestError("the body has too many fields.", reason="invalid_value")
        try:
            self.fields[self._name] = bytes(self._value).decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"{self._name[:100]} is not UTF-8.", param=self._name[:100]) from None

    def _on_end(self) -> None:
        self._ended = True

    def _bound(self, value: bytearray, most_bytes: int) -> None:
        if len(value) > most_bytes:
            raise RequestError("a field of the multipart body is too large.", reason="invalid_value")
