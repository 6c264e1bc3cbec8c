"""Against a server of our own that behaves as vLLM's documentation says; no real vLLM was asked."""

import asyncio

import pytest
from fake_vllm import FakeVllm
from waiting import until

from celora.errors import RequestError
from celora.services.chat.proxy import answer
from celora.services.chat.serving_server import ServingServer
from celora.tuning.answering.messages import Done, Refused, Started, Words


@pytest.fixture
def server():
    with FakeVllm("owner/base") as server:
        yield server


def ask(server, said="hello there", adapter=None, key=""):
    """All events of an answer."""

    async def read():
        model = adapter[0] if adapter else "owner/base"
        body = {"model": model, "messages": [{"role": "user", "content": said}]}
        return [event async for event in answer(ServingServer(server.url, key), body, adapter)]

    return asyncio.run(read())


def test_a_base_answers_and_its_words_have_no_space_at_their_ends(server):
    started, *words, done = ask(server)
    assert isinstance(started, Started)
    assert [word.text for word in words] == ["owner/base", " hello", " there"]
    assert done == Done(text="owner/base hello there", finish_reason="stop", prompt_tokens=5, completion_tokens=4)
    assert server.asked[0]["stream_options"] == {"include_usage": True}


def test_an_adapter_is_loaded_once_and_after_a_restart_again(server, tmp_path):
    adapter = ("job-1@3", tmp_path)
    for _ in range(2):
        assert ask(server, adapter=adapter)[-1].text == "job-1@3 hello there"
    assert server.loads == [("job-1@3", str(tmp_path))]
    server.adapters.clear()
    assert ask(server, adapter=adapter)[-1].text == "job-1@3 hello there"
    server.forgets_after_list = True
    assert ask(server, adapter=adapter)[-1].text == "job-1@3 hello there"
    assert len(server.loads) == 3


def test_a_loading_that_says_success_and_loads_nothing_is_noticed(server, tmp_path):
    with pytest.raises(RequestError) as caught:
        ask(server, adapter=("job-1", tmp_path / "away"))
    assert (caught.value.status, caught.value.reason) == (503, "unavailable")
    assert str(tmp_path) not in caught.value.message


def test_a_refusal_of_the_server_is_passed_on(server):
    (refused,) = ask(server, said="x" * 2000)
    assert (refused.code, "context length" in refused.message) == ("context_length_exceeded", True)


def test_whoever_stops_reading_ends_the_answer_of_the_server(server):
    server.hold.clear()

    async def read():
        events = answer(ServingServer(server.url), {"model": "owner/base", "messages": [{"content": "a " * 400}]}, None)
        assert isinstance(await anext(events), Started)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await events.aclose()

    asyncio.run(read())
    server.hold.set()
    until(server.broken.is_set)


def test_a_server_that_breaks_off_gives_no_whole_answer(server, monkeypatch):
    monkeypatch.setattr("fake_vllm._Handler._chunk", lambda handler, _: handler.wfile.write(b'data: {"error": {}}\n\n'))
    assert isinstance(ask(server)[-1], Refused)
    assert not [event for event in ask(server) if isinstance(event, Words)]
