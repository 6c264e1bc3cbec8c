"""Speaks with a server of OpenAI's API (vLLM), and loads and unloads adapters while it runs.

vLLM forgets loaded adapters when it restarts, and may serve stale prefix blocks where a name comes again with other
weights (vllm-project/vllm#42125). So an adapter's name is its job and step, which never mean other weights. The list of
the server's models is read before each answer, and a 404 in spite of the list loads the adapter again. The list also
says if a loading worked, not the answer to it (vllm-project/vllm#18372: 200 for a path that is not there).

The loading needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``, ``--enable-lora``, a rank within ``--max-lora-rank``, and a
folder that the server's machine sees under the same path.
"""

import contextlib
import http.client
import json
import logging
import socket
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from .refusals import unreachable

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
READ_S = 600.0
LINE_BYTES = 1 << 20
BODY_BYTES = 8 << 20


class ServingServer:
    """A server of OpenAI's API.

    Args:
        url: Its URL, with or without ``/v1``.
        key: The key that it asks for; none where empty.
        read_s: Seconds that it may be silent.
    """

    def __init__(self, url: str, key: str = "", *, read_s: float = READ_S) -> None:
        parts, self._read_s = urlsplit(url), read_s
        self._secure, self._host = parts.scheme == "https", parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}

    def models(self) -> list[Mapping[str, Any]]:
        """List the bases and adapters that the server serves.

        Raises:
            RequestError: The server does not answer (503).
        """
        with contextlib.closing(self.send("GET", "/v1/models")) as answer:
            found = answer.json()
            if answer.status != HTTPStatus.OK:
                logger.warning("the serving server answers %d to its list of models", answer.status)
                raise unreachable()
        data: Any = found.get("data")
        listed = cast("list[Any]", data) if isinstance(data, list) else []
        return [cast("dict[str, Any]", one) for one in listed if isinstance(one, dict)]

    def served_base(self, names: set[str]) -> str | None:
        """Return the id under which the server serves a base of one of these names; None if it does not."""
        for one in self.models():
            if not one.get("parent") and names & {one.get("id"), one.get("root")}:
                return str(one["id"])
        return None

    def adapters(self) -> list[str]:
        """List the names of the loaded adapters.

        Raises:
            RequestError: The server does not answer (503).
        """
        return [str(one["id"]) for one in self.models() if one.get("parent") and one.get("id")]

    def unload(self, name: str) -> None:
        """Unload an adapter.

        Raises:
            RequestError: The server still lists the adapter afterwards (503).
        """
        with contextlib.closing(self.send("POST", "/v1/unload_lora_adapter", {"lora_name": name})) as answer:
            said, status = answer.text(), answer.status
        if self._lists(name):
            logger.error("the serving server did not unload the adapter %s: %d %s", name, status, said[:500])
            raise unreachable()

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter, unless the server lists it already.

        Raises:
            RequestError: The server does not list the adapter afterwards (503).
        """
        if self._lists(name):
            return
        with contextlib.closing(
            self.send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        ) as answer:
            said, status = answer.text(), answer.status
        if not self._lists(name):
            logger.error(
                "the serving server did not load the adapter %s of %s: %d %s", name, folder, status, said[:500]
            )
            raise unreachable()

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> "ServerAnswer":
        """Send a request, and return its answer, of which the status was read.

        Raises:
            RequestError: The server does not answer (503).
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(self._read_s)
            raw = connection.sock
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, self._prefix + path, content, {**self._headers, "connection": "close"})
            return ServerAnswer(connection, raw, connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            logger.warning("the serving server does not answer: %s", error)
            raise unreachable() from error

    def _lists(self, name: str) -> bool:
        return any(one.get("id") == name for one in self.models())


class ServerAnswer:
    """An answer that is being read.

    Args:
        connection: Its connection, which is closed with it.
        raw: The connection's socket.
        response: The answer.
    """

    def __init__(
        self, connection: http.client.HTTPConnection, raw: socket.socket, response: http.client.HTTPResponse
    ) -> None:
        self._connection, self._raw, self._response = connection, raw, response
        self.status = response.status

    def line(self) -> bytes:
        """Read the next line of a stream; empty at its end."""
        try:
            return self._response.readline(LINE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            logger.warning("the serving server broke off: %s", error)
            return b""

    def text(self) -> str:
        """Read the body."""
        try:
            return self._response.read(BODY_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""

    def json(self) -> Mapping[str, Any]:
        """Read the body as a JSON object; an empty one where it is none."""
        return object_of(self.text())

    def break_off(self) -> None:
        """End the connection from another thread; a read that waits returns."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the answer and its connection."""
        self._response.close()
        self._connection.close()


def object_of(text: str) -> Mapping[str, Any]:
    """Parse a JSON object; an empty one where the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
