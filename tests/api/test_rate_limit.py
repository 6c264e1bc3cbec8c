"""The limit of requests a minute: what a key may send, when it may go on, and a server that is away."""

from contextlib import suppress

import pytest

from celora.api import rate_limit
from celora.api.rate_limit import MemoryCounter, RateLimit, ServerCounter, wait_s
from celora.errors import RequestError
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.workers.node.ports import free_port

NOON = 1_800_000_000.0 - 1_800_000_000 % 60


def sent(limit, most, times, name="key"):
    """Send at these seconds after noon; return the seconds at which a request was accepted."""
    accepted = []
    for past_s in times:
        with suppress(RequestError):
            limit.check(name, most, NOON + past_s)
            accepted.append(past_s)
    return accepted


@pytest.fixture(params=["memory", "server", "away"])
def limit(request):
    if request.param == "server":
        return RateLimit(ServerCounter(request.getfixturevalue("valkey")))
    away = ServerCounter(f"redis://127.0.0.1:{free_port()}/0")
    return RateLimit(None if request.param == "memory" else away)


def test_a_key_sends_its_number_and_no_more_around_the_change_of_a_minute(limit):
    assert sent(limit, 3, [50, 51, 52, 53, 59, 60, 61]) == [50, 51, 52]
    assert sent(limit, 3, [81]) == [81]  # a third of the minute before has left the window
    assert sent(limit, 3, [82, 100]) == [100]
    assert sent(limit, 3, [82], name="another") == [82]


@pytest.mark.parametrize("past_s", [0, 1, 30, 59])
@pytest.mark.parametrize("before", [0, 1, 7, 10])
def test_the_answer_says_when_the_next_request_is_accepted(past_s, before):
    limit, most = RateLimit(None), 10
    sent(limit, most, [-1.0] * before)
    sent(limit, most, [past_s] * (most + 1))
    with pytest.raises(RequestError) as caught:
        limit.check("key", most, NOON + past_s)
    wait = int(caught.value.headers["retry-after"])
    if wait < 60:
        limit.check("key", most, NOON + past_s + wait)


def test_a_wait_is_never_above_a_minute():
    assert wait_s(1, 0, 1, 0) == 60


def test_counts_of_minutes_that_are_over_are_dropped():
    counter = MemoryCounter()
    for minute in range(100):
        counter.add("key", minute, 1)
    assert counter.add("key", 99, 1) == (2, 1)
    assert len(counter._counts) == 2


@pytest.fixture
def _fresh_counts():
    rate_limit._limit.cache_clear()
    yield
    rate_limit._limit.cache_clear()


@pytest.mark.usefixtures("_fresh_counts")
def test_a_client_with_too_many_requests_is_asked_to_wait(client, monkeypatch):
    monkeypatch.setenv("CELORA_REQUESTS_PER_MINUTE", "2")
    get_settings.cache_clear()
    slow, quick = ({"authorization": f"Bearer {keys.create_key('team-a').key}"} for _ in range(2))
    answers = [client.get("/v1/files", headers=quick) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limit_exceeded")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert "x-should-retry" not in answers[-1].headers
    assert client.get("/v1/files", headers=slow).status_code == 200
    assert client.get("/healthz").status_code == 200
