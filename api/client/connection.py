"""Sends requests to a celora server, and makes one sentence of everything that goes wrong on the way.

Unusual: a redirect is never followed, since it would carry the key to another host. A request that was refused for its
rate, or a read that finds the service away, is repeated for a limited time; nothing waits longer than its timeout.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx

from ...errors import SettingsError
from .refusals import TOO_MANY, UNAVAILABLE, broken, refusal_of, stranger, wait_s
from .server import FORM, Server

CONNECT_S = 10.0
ANSWER_S = 60.0
"""Seconds that the server may be silent."""
LONG_ANSWER_S = 300.0
"""The same after an upload, which the server stores before it answers."""
MOST_BYTES = 64 << 20
"""Size of the largest answer that is kept in memory; an adapter is written to its file piece by piece."""
PATIENCE_S = 30.0
"""Seconds for which a request is repeated that the server cannot take at the moment."""

Answer = dict[str, Any]
"""An object in JSON, as a server sends it or receives it."""
Pause = Callable[[float], None]


class Connection:
    """A connection to a server; a context manager, which closes it.

    Args:
        server: The server.
        pause: Waits for some seconds.
        transport: Carries the requests; the network unless given.
    """

    def __init__(
        self, server: Server, *, pause: Pause = time.sleep, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.server, self._pause = server, pause
        headers = {"user-agent": "celora"} | ({"authorization": f"Bearer {server.key}"} if server.key else {})
        with self._translated():
            self._client = httpx.Client(
                base_url=f"{server.url}/v1/",
                headers=headers | {"accept-encoding": "identity"},
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
                follow_redirects=False,
                trust_env=not server.local,  # a proxy of the environment cannot reach this machine
                transport=transport,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int | None) -> Answer:
        """Read an object.

        Args:
            path: The path below ``/v1/``.
            query: The query; None leaves a name out.

        Raises:
            CeloraError: The server refuses the request, or does not answer.
        """
        wanted = {name: value for name, value in query.items() if value is not None}
        return self._object("GET", path, params=wanted)

    def post(self, path: str, body: Answer | None = None, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Send an object and read the answer; a request that the server has begun is not repeated.

        Raises:
            CeloraError: The server refuses the request, or does not answer.
        """
        return self._object("POST", path, json=body or {}, headers=dict(headers or {}))

    def delete(self, path: str) -> Answer:
        """Delete an object.

        Raises:
            CeloraError: The server refuses the request, or does not answer.
        """
        return self._object("DELETE", path)

    def pause(self, seconds: float) -> None:
        """Wait before the next request."""
        self._pause(seconds)

    def upload(self, path: str, *, files: Mapping[str, Any], fields: Mapping[str, str]) -> Answer:
        """Send a form with a file, which is read while it is sent.

        Raises:
            CeloraError: The server refuses the request, or does not answer.
        """
        timeout = httpx.Timeout(LONG_ANSWER_S, connect=CONNECT_S)
        return self._object("POST", path, files=files, data=fields, timeout=timeout)

    @contextmanager
    def download(self, path: str) -> Generator[Iterator[bytes]]:
        """Read an answer in parts.

        Raises:
            CeloraError: The server refuses the request, or the answer breaks off.
        """
        with self._translated(), self._client.stream("GET", path) as answer:
            if not answer.is_success:
                raise refusal_of(self._whole(answer), self.server.url)
            yield answer.iter_bytes()

    def _object(self, method: str, path: str, **options: Any) -> Answer:
        answer = self._answer(method, path, **options)
        if not answer.is_success:
            raise refusal_of(answer, self.server.url)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise stranger(answer, self.server.url)
        return found  # pyright: ignore[reportUnknownVariableType]

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, and repeat it where the server cannot take it at the moment, as long as patience lasts."""
        waited_s = 0.0
        while True:
            with self._translated(), self._client.stream(method, path, **options) as begun:
                answer = self._whole(begun)
            again_s = wait_s(answer)
            busy = answer.status_code == TOO_MANY or (answer.status_code == UNAVAILABLE and method == "GET")
            if not busy or again_s is None or waited_s + again_s > PATIENCE_S:
                return answer
            self._pause(again_s)
            waited_s += again_s

    def _whole(self, begun: httpx.Response) -> httpx.Response:
        """Read an answer to its end.

        Raises:
            SettingsError: It is larger than any answer of a celora server.
            UnavailableError: Its parts come, and the end does not.
        """
        content, ends = bytearray(), time.monotonic() + LONG_ANSWER_S
        for part in begun.iter_bytes():
            content += part
            if len(content) > MOST_BYTES:
                raise stranger(begun, self.server.url)
            if time.monotonic() > ends:
                raise httpx.ReadTimeout("the answer has no end", request=begun.request)
        headers = begun.headers.copy()
        headers.pop("content-encoding", None)  # of a proxy that compresses unasked; the parts are unpacked already
        return httpx.Response(begun.status_code, headers=headers, content=bytes(content), request=begun.request)

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Make a sentence of what httpx raises."""
        try:
            yield
        except httpx.TransportError as error:
            raise broken(error, self.server.url) from None
        except (httpx.InvalidURL, UnicodeError):
            raise SettingsError(f"{self.server.url!r} is no URL of a server.", hint=FORM) from None
