import asyncio
import threading
from contextlib import contextmanager

import pytest

from celora.errors import RequestError
from celora.services.chat import answer_host, host_process
from celora.settings.settings import get_settings
from celora.storage.unix_socket import listen
from celora.tuning.answering.host import AnswerHost
from celora.tuning.answering.messages import AnswerRequest, Done, Started, Turn
from celora.workers.node.answer_process import socket_of

DONE = Done(text="hi", finish_reason="stop", prompt_tokens=1, completion_tokens=1)
REQUEST = AnswerRequest(
    owner="a", tenant="a", base_name="b", most_base_bytes=0, messages=[Turn(role="user", content="hi")],
    max_new_tokens=1,
)  # fmt: skip


@contextmanager
def hosts(*answers):
    """Hosts of which each is there for one connection; each closes it after its events."""
    path = socket_of(get_settings())
    path.parent.mkdir(exist_ok=True)
    left = list(answers)

    def model(_request, client):
        for event in left.pop(0):
            client.send(event)

    with listen(path) as listener:
        host = AnswerHost(listener, model, 200.0)
        thread = threading.Thread(target=host.serve, daemon=True)
        thread.start()
        yield left
        host.close()
        thread.join(200)


def ask():
    async def read():
        return [event async for event in answer_host.answer(REQUEST, get_settings())]

    return asyncio.run(read())


def test_the_events_of_an_answer_are_yielded(home):
    with hosts([Started(prompt_tokens=1), DONE]):
        assert ask() == [Started(prompt_tokens=1), DONE]


def test_a_host_that_leaves_before_it_begins_is_asked_again(home):
    with hosts([], [], [DONE]) as left:
        assert ask() == [DONE]
        assert left == []


def test_an_answer_that_has_begun_is_not_begun_again(home):
    with hosts([Started(prompt_tokens=1)], [DONE]) as left:
        with pytest.raises(RequestError) as caught:
            ask()
        assert len(left) == 1
    assert (caught.value.status, caught.value.reason) == (503, "unavailable")


def test_hosts_that_cannot_start_are_given_up(home, monkeypatch):
    started = []
    monkeypatch.setattr(host_process, "start", lambda _: bool(started.append(1)) or True)
    with pytest.raises(RequestError, match="does not answer"):
        ask()
    assert len(started) < 10
