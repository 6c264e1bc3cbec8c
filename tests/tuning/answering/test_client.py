import socket
import threading

import pytest
from pydantic import ValidationError

from celora.tuning.answering.client import Client
from celora.tuning.answering.messages import AnswerRequest, Started, Turn, line_of, parse_event

REQUEST = AnswerRequest(
    owner="a", tenant="a", base_name="b", most_base_bytes=0, messages=[Turn(role="user", content="é\n")],
    max_new_tokens=1,
)  # fmt: skip


@pytest.fixture
def pair():
    """A client as the host has it, and the socket of the other side."""
    here, there = socket.socketpair()
    with here, there:
        there.settimeout(200)
        yield Client(here), there


def test_a_request_is_read_and_its_events_arrive(pair):
    client, there = pair
    there.sendall(line_of(REQUEST))
    assert client.read() == REQUEST
    client.send(Started(prompt_tokens=2))
    assert parse_event(there.recv(1000)) == Started(prompt_tokens=2)


def test_a_line_that_is_no_request_is_no_request(pair):
    client, there = pair
    there.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ValidationError):
        client.read()


def test_the_end_of_the_other_side_is_noticed(pair):
    client, there = pair
    waiting = threading.Thread(target=client.wait_until_gone)
    waiting.start()
    there.close()
    waiting.join(200)
    assert client.gone.is_set()


def test_sending_to_a_client_that_is_gone_is_no_error(pair):
    client, there = pair
    there.close()
    client.send(Started(prompt_tokens=2))
    assert client.gone.is_set()


def test_a_closed_client_wakes_the_thread_that_waits_for_its_end(pair):
    client, there = pair
    waiting = threading.Thread(target=client.wait_until_gone)
    waiting.start()
    client.close()
    waiting.join(200)
    assert there.recv(1) == b""
