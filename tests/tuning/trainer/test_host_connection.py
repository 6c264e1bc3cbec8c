"""Lines and descriptors that come over a socket, in whatever pieces."""

import os
import socket
import threading

import pytest

from celora.tuning.trainer import host_connection
from celora.tuning.trainer.host_connection import Connection
from celora.tuning.trainer.host_messages import Final


@pytest.fixture
def pair():
    client, theirs = socket.socketpair()
    connection = Connection(theirs)
    yield connection, client
    connection.close()
    client.close()


def test_lines_come_in_whatever_pieces(pair):
    connection, client = pair
    client.sendall(b"one\ntw")
    assert connection.read_line() == b"one\n"
    client.sendall(b"o\n\nrest")
    assert connection.read_line() == b"two\n"
    assert connection.read_line() == b"\n"
    client.shutdown(socket.SHUT_WR)
    assert connection.read_line() == b""


def test_a_line_that_is_larger_than_the_buffer_of_a_socket_is_read_whole(pair):
    connection, client = pair
    line = b"x" * 3_000_000 + b"\n"
    sender = threading.Thread(target=client.sendall, args=(line,))
    sender.start()
    assert connection.read_line() == line
    sender.join()


def test_a_line_without_an_end_is_refused(pair, monkeypatch):
    monkeypatch.setattr(host_connection, "LINE_BYTES", 10)
    connection, client = pair
    client.sendall(b"x" * 20)
    client.sendall(b"x" * 20)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="too long"):
        connection.read_line()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_exactly_one_descriptor_is_taken_and_no_other_stays_open(pair, count):
    connection, client = pair
    ends = [os.pipe() for _ in range(count)]
    socket.send_fds(client, [b"line\n"], [writing for _, writing in ends])
    for _, writing in ends:
        os.close(writing)
    assert connection.read_line() == b"line\n"
    taken = connection.take_descriptor()
    assert (taken is not None) == (count == 1)
    if taken is not None:
        assert not os.get_inheritable(taken)
        os.close(taken)
    for reading, _ in ends:
        assert os.read(reading, 1) == b""  # the end of file: every copy of the other end is closed
        os.close(reading)


def test_descriptors_that_nobody_takes_are_closed_with_the_connection(pair):
    connection, client = pair
    reading, writing = os.pipe()
    socket.send_fds(client, [b"line\n"], [writing])
    os.close(writing)
    connection.read_line()
    connection.close()
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_client_that_sends_nothing_in_time_is_an_error(pair):
    connection, _ = pair
    connection.expect_within(0.01)
    with pytest.raises(BlockingIOError):
        connection.read_line()


def test_a_client_that_is_gone_is_known_after_the_first_line(pair):
    connection, client = pair
    assert connection.send(Final(exit=0))
    client.close()
    assert not connection.send(Final(exit=0))
    assert connection.lost
    assert not connection.write(b"more\n")


def test_a_client_that_reads_nothing_counts_as_gone(monkeypatch):
    monkeypatch.setattr(host_connection, "WRITE_S", 1)
    client, theirs = socket.socketpair()
    connection = Connection(theirs)
    assert not connection.write(b"x" * 10**7)
    assert connection.read_line() == b""
    connection.close()
    client.close()


def test_what_was_written_before_the_end_reaches_the_client(pair):
    connection, client = pair
    connection.send(Final(exit=3))
    connection.end()
    with client.makefile("rb") as lines:
        assert Final.model_validate_json(lines.readline()).exit == 3
        assert lines.read() == b""
