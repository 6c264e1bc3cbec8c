"""Which addresses may be connected to, and that the connection goes where the judgement was made."""

import socket
import time
from urllib.parse import urlsplit

import pytest

from celora.errors import UnavailableError
from celora.tuning import web_connection


@pytest.mark.parametrize(
    ("address", "listed", "may"),
    [
        ("93.184.216.34", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("10.0.0.7", False, False),
        ("10.0.0.7", True, True),
        ("169.254.169.254", True, False),
        ("::ffff:169.254.169.254", True, False),
        ("::ffff:10.0.0.7", False, False),
        ("::169.254.169.254", True, False),
        ("64:ff9b::a9fe:a9fe", True, False),
        ("64:ff9b:1::a9fe:a9fe", True, False),
        ("2001:db8::5efe:a9fe:a9fe", True, False),
        ("2a00::200:5efe:a9fe:a9fe", False, False),
        ("fd00:ec2::254", True, False),
        ("100.100.100.200", True, False),
        ("168.63.129.16", False, False),
        ("::ffff:168.63.129.16", False, False),
        ("192.0.0.192", True, False),
        ("2002:a9fe:a9fe::1", True, False),
        ("2002:0a00:0007::1", False, False),
        ("::1", False, False),
        ("::1", True, True),
        ("fe80::1%eth0", True, False),
        ("fd00::1", False, False),
        ("0.0.0.0", True, False),  # noqa: S104  (nobody binds it)
        ("::", True, False),
        ("224.0.0.1", True, False),
    ],
)
def test_private_addresses_need_their_very_host_on_the_list(address, listed, may):
    assert web_connection.may_connect(address, listed=listed) is may


@pytest.mark.parametrize("words", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:a9fe:a9fe]"])
def test_the_metadata_address_is_refused_however_it_is_written(words):
    with pytest.raises(web_connection.PrivateAddressError):
        web_connection.connect(urlsplit(f"http://{words}/"), listed=True, hint="", timeout_s=1)


def test_a_host_without_an_address_is_told():
    with pytest.raises(UnavailableError, match="has no address"):
        web_connection.connect(urlsplit("http://nobody.invalid/"), listed=True, hint="", timeout_s=1)


def test_all_addresses_of_a_name_share_the_time(monkeypatch):
    tried = []

    def silent(address, timeout):
        tried.append(timeout)
        time.sleep(timeout / 2)
        raise TimeoutError("it never answers")

    monkeypatch.setattr(web_connection.socket, "create_connection", silent)
    found = [(2, 1, 6, "", ("93.184.216.34", 80))] * 500
    monkeypatch.setattr(web_connection.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(TimeoutError):
        web_connection.connect(urlsplit("http://hooks.example.org/"), listed=False, hint="", timeout_s=0.05)
    assert max(tried) <= 0.05
    assert sum(tried) / 2 <= 0.05


def test_the_next_address_is_tried_where_the_first_does_not_answer(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [(10, 1, 6, "", ("::1", port, 0, 0)), (2, 1, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(web_connection.socket, "getaddrinfo", lambda *_, **__: found)
        real = socket.create_connection

        def no_ipv6(address, **options):
            if ":" in address[0]:
                raise OSError("unreachable")
            return real(address, **options)

        monkeypatch.setattr(web_connection.socket, "create_connection", no_ipv6)
        parts = urlsplit(f"http://hooks.example.org:{port}/")
        connection = web_connection.connect(parts, listed=True, hint="", timeout_s=5)
        assert connection.sock.getpeername() == ("127.0.0.1", port)
        connection.close()
