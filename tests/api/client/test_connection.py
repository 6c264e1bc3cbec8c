"""A request is repeated where it helps and for a limited time, and its key goes to the server alone."""

import gzip
import socket
import threading

import httpx
import pytest

from celora.api.client import connection as module
from celora.api.client.connection import PATIENCE_S, Connection
from celora.api.client.server import Server
from celora.errors import NotFoundError, SettingsError, UnavailableError

SERVER = Server(url="https://celora.example", key="celora_k", local=False)


def envelope(status, code="x", message="told.", **headers):
    return httpx.Response(status, json={"error": {"message": message, "code": code, "param": "p"}}, headers=headers)


@pytest.fixture
def connect():
    """Makes a connection to a server that gives the answers in their order, the last one for good."""
    waited, requests = [], []

    def make(*answers):
        left = list(answers)

        def answer(request):
            requests.append(request)
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            return found

        return Connection(SERVER, pause=waited.append, transport=httpx.MockTransport(answer))

    make.waited, make.requests = waited, requests
    return make


def test_a_busy_server_is_asked_again_after_its_own_wait(connect):
    busy, good = envelope(429, "rate_limit_exceeded", **{"retry-after": "7"}), httpx.Response(200, json={"a": 1})
    assert connect(busy, busy, good).get("x") == {"a": 1}
    assert connect.waited == [7.0, 7.0]


def test_patience_ends(connect):
    with pytest.raises(UnavailableError):
        connect(envelope(503, "unavailable", **{"retry-after": "5"})).get("x")
    assert sum(connect.waited) <= PATIENCE_S


def test_a_change_is_not_repeated_where_it_may_have_begun(connect):
    with pytest.raises(UnavailableError):
        connect(envelope(503, "unavailable", **{"retry-after": "5"})).post("x")
    assert (len(connect.requests), connect.waited) == (1, [])


def test_the_key_goes_with_each_request_and_never_along_a_redirect(connect):
    with pytest.raises(SettingsError):
        connect(httpx.Response(307, headers={"location": "https://other/"})).get("x", limit=3, after=None)
    assert [str(one.url) for one in connect.requests] == ["https://celora.example/v1/x?limit=3"]
    assert connect.requests[0].headers["authorization"] == "Bearer celora_k"


class Endless(httpx.SyncByteStream):
    """A content without an end."""

    def __iter__(self):
        while True:
            yield b" " * 1000


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_without_an_end_is_one_sentence(connect, monkeypatch, status):
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    endless = httpx.Response(status, stream=Endless())
    with pytest.raises(SettingsError, match="answers as no celora server does"):
        connect(endless).get("x")
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 40)
    monkeypatch.setattr(module, "LONG_ANSWER_S", 0.05)
    with pytest.raises(UnavailableError, match="did not answer in time"):
        connect(httpx.Response(200, stream=Endless())).get("x")


def test_a_refusal_of_a_download_without_an_end_is_one_sentence(connect, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    endless = httpx.Response(404, stream=Endless())
    with pytest.raises(SettingsError, match="answers as no celora server does"), connect(endless).download("x"):
        pass


def test_a_proxy_that_compresses_unasked_changes_nothing(connect):
    packed = httpx.Response(200, content=gzip.compress(b'{"a": 1}'), headers={"content-encoding": "gzip"})
    assert connect(packed).get("x") == {"a": 1}


def test_a_download_is_refused_as_any_answer_is(connect):
    with pytest.raises(NotFoundError, match="told"), connect(envelope(404)).download("x"):
        pass


def test_a_server_that_speaks_no_tls_and_one_whose_certificate_nobody_signed_are_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=_answer_in_plain_text, args=(listener,))
        thread.start()
        with (
            pytest.raises(UnavailableError, match="does not speak TLS"),
            Connection(Server(url=f"https://127.0.0.1:{port}", key="", local=True)) as connection,
        ):
            connection.get("x")
        thread.join(30)


def _answer_in_plain_text(listener):
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
