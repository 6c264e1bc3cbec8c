import socket

from celora.workers.node.ports import free_port, is_free


def test_a_port_that_somebody_listens_on_is_not_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_port_that_listens_on_every_address_is_not_free():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_free_port_is_free():
    assert is_free(free_port())
