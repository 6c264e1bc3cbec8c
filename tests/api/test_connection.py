"""A connection over a real socket: slow heads, the rest of a refused body, and bytes that are no HTTP."""

import socket
import threading
from contextlib import suppress

import pytest
from served_api import answer_on, exchange, request
from waiting import until

from celora.api import connection

SHORT_S = 0.2
"""A limit that these tests wait for; nothing honest is sent under it."""


@pytest.fixture
def port(served_port):
    return served_port


@pytest.fixture
def connect(port):
    """Opens connections, which are closed in the end."""
    opened = []

    def open_one():
        opened.append(socket.create_connection(("127.0.0.1", port)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def ended(sock):
    """Return whether the other side has closed the connection."""
    try:
        return sock.recv(4096) == b""
    except OSError:
        return True


def test_a_head_that_stops_arriving_is_refused(monkeypatch, connect):
    monkeypatch.setattr(connection, "HEAD_S", SHORT_S)
    slow = connect()
    slow.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")
    status, headers, body = answer_on(slow)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert headers["x-request-id"].startswith("req_")
    until(lambda: ended(slow))


def test_a_head_that_arrives_letter_by_letter_is_refused(monkeypatch, connect):
    monkeypatch.setattr(connection, "HEAD_S", SHORT_S)
    slow, over = connect(), threading.Event()

    def send():
        slow.sendall(b"GET /healthz HTTP/1.1\r\nx-a: ")
        with suppress(OSError):
            while not over.wait(0.01):
                slow.sendall(b"a")

    thread = threading.Thread(target=send)
    thread.start()
    assert answer_on(slow)[0] == 408
    over.set()
    thread.join()


def test_a_connection_on_which_nothing_arrives_is_closed(monkeypatch, connect):
    monkeypatch.setattr(connection, "HEAD_S", SHORT_S)
    until(lambda: ended(connect()))


def test_a_connection_serves_one_request_after_the_other(connect):
    again = connect()
    for _ in range(3):
        again.sendall(request("GET", "/healthz"))
        assert answer_on(again)[0] == 200
    again.sendall(request("GET", "/healthz") + request("GET", "/readyz"))
    assert answer_on(again)[2] == {"status": "ok"}


def test_a_body_that_goes_on_after_its_refusal_is_cut(monkeypatch, connect):
    monkeypatch.setattr(connection, "LINGER_S", SHORT_S)
    greedy = connect()
    greedy.sendall(request("POST", "/v1/files", content_length=str(10 * 2**30)))
    assert answer_on(greedy)[0] == 413

    def is_cut():
        try:
            greedy.sendall(b"x" * 65536)
        except OSError:
            return True
        return False

    until(is_cut)


def test_the_next_request_waits_for_the_rest_of_a_refused_body(connect):
    refused = connect()
    refused.sendall(request("POST", "/v1/fine_tuning/jobs", content_length="10", content_encoding="gzip"))
    assert answer_on(refused)[0] == 415
    refused.sendall(b"x" * 10 + request("GET", "/healthz"))
    assert answer_on(refused)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n",
     b"GET /healthz HTTP/1.1\r\nno header\r\n\r\n",
     b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * (1 << 17)],
)  # fmt: skip
def test_bytes_that_are_no_request_get_the_envelope(port, sent):
    status, headers, body = exchange(port, sent)
    assert (status, body["error"]["code"]) == (400, "bad_request")
    assert headers["x-request-id"].startswith("req_")


def test_a_broken_body_ends_its_connection_and_harms_no_other(port, connect, caplog):
    broken = connect()
    head = request("POST", "/v1/fine_tuning/jobs", content_length=None, transfer_encoding="chunked")
    broken.sendall(head + b'4\r\n{"a"\r\nno length\r\n')
    until(lambda: ended(broken))
    gone = connect()
    gone.sendall(request("POST", "/v1/fine_tuning/jobs", content_length="100"))
    gone.close()
    assert exchange(port, request("GET", "/healthz"))[0] == 200
    assert "Traceback" not in caplog.text
