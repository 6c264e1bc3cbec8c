"""The jobs of a server are read page by page, and a change that its state refuses is an answer, as in a record."""

import httpx
import pytest

from celora.api.client import jobs as client
from celora.api.client.connection import Connection
from celora.api.client.server import Server
from celora.errors import RequestError


@pytest.fixture
def remote():
    """The jobs of a server that gives answers by the path and query of a request."""
    asked = []

    def make(answers):
        def answer(request):
            asked.append(f"{request.method} {request.url.raw_path.decode().removeprefix('/v1/celora/')}")
            status, body = answers[asked[-1]]
            return httpx.Response(status, json=body)

        transport = httpx.MockTransport(answer)
        return client.RemoteJobs(Connection(Server(url="https://h", key="", local=False), transport=transport))

    make.asked = asked
    return make


def event(number):
    return {"id": number, "at": "2026-11-30T10:00:00+00:00", "kind": "note"}


def test_events_are_read_to_their_end(remote, monkeypatch):
    monkeypatch.setattr(client, "EVENTS", 2)
    jobs = remote({
        "GET jobs/j/events?after=0&limit=2": (200, {"data": [event(1), event(2)]}),
        "GET jobs/j/events?after=2&limit=2": (200, {"data": [event(3)]}),
    })  # fmt: skip
    assert [one["id"] for one in jobs.events("j", 0)] == [1, 2, 3]


def test_a_name_is_a_part_of_a_path_and_nothing_else(remote):
    jobs = remote({"GET ids/a%2F..%2Fb%3Fc": (200, {"id": "whole"})})
    assert jobs.whole_id("a/../b?c") == "whole"
    assert jobs.whole_id("whole") == "whole"
    assert len(remote.asked) == 1


def test_a_refusal_by_the_jobs_state_is_an_answer_and_any_other_conflict_an_error(remote):
    def refused(code):
        return 409, {"error": {"message": "told.", "code": code, "param": None}}

    assert remote({"POST jobs/j/cancel": refused("invalid_state")}).cancel("j") == "final"
    assert remote({"POST jobs/j/resume": refused("invalid_state")}).resume("j", None) is False
    with pytest.raises(RequestError):
        remote({"POST jobs/j/cancel": refused("idempotency_conflict")}).cancel("j")


def test_a_server_that_repeats_a_piece_does_not_keep_a_reader(remote):
    jobs = remote({
        "GET jobs/j/logs": (200, {"data": [{"name": "001-train.log"}]}),
        "GET jobs/j/logs/001-train.log?after=0": (200, {"text": "x", "next": 0, "more": True}),
    })  # fmt: skip

    class Job:
        id = "j"

    assert list(jobs.log_news(Job, {})) == [("001-train.log", "x")]
