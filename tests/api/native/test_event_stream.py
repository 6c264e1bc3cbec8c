"""The stream of a job's events as a client reads it, while its key holds."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from waiting import until

from celora.api import event_watch
from celora.models.scope.scope import Scope
from celora.models.tables import ApiKey
from celora.services.native import event_news
from celora.services.tenants import keys

JOBS = "/v1/celora/jobs"
HANG_S = 120


def blocks_of(answer):
    """The blocks of a stream, without its comments."""
    blocks = [block for block in answer.text.strip().split("\n\n") if not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_a_stream_sends_events_from_the_last_id_on_and_ends_with_the_job(client, submit):
    submit().complete()
    whole = client.get(f"{JOBS}/job-1/events/stream")
    assert whole.headers["content-type"].startswith("text/event-stream")
    blocks = blocks_of(whole)
    assert (blocks[0]["event"], blocks[-1]["event"]) == ("submitted", "end")
    assert json.loads(blocks[-2]["data"])["kind"] == "completed"
    rest = client.get(f"{JOBS}/job-1/events/stream", headers={"Last-Event-ID": blocks[-3]["id"]})
    assert rest.text.count("event:") == 2


@pytest.mark.parametrize("headers", [{"Last-Event-ID": "x"}, {"Last-Event-ID": "-1"}, {"Last-Event-ID": "9" * 30}])
def test_a_wrong_last_id_is_refused(client, submit, headers):
    submit()
    assert client.get(f"{JOBS}/job-1/events/stream", headers=headers).status_code == 400


def opened(client, meanwhile):
    """Read a stream to its end, and do something once it has sent what there was; return its last block."""
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(client.get, f"{JOBS}/job-1/events/stream")
        until(lambda: client.app.state.watch.is_busy or whole.done())
        meanwhile()
        found = blocks_of(whole.result(HANG_S))
    assert found[0]["event"] == "submitted"
    return found[-1]["event"], json.loads(found[-1]["data"])["error"]["code"]


def expire(record, key_id):
    with record.transaction(Scope.everything) as session:
        session.get_one(ApiKey, key_id).expires_at = datetime(2026, 1, 1, tzinfo=UTC)


ENDS = {
    "revoked": lambda _, key_id: keys.revoke_key(key_id),
    "rotated": lambda _, key_id: keys.rotate_key(key_id),
    "expired": expire,
}


@pytest.mark.parametrize("way", ENDS)
def test_a_stream_ends_soon_after_its_key(new_client, submit, record, monkeypatch, way):
    monkeypatch.setattr(event_watch, "EVERY_S", 0.01)
    submit()
    made = keys.create_key("default", scopes=["read"])
    client = new_client(headers={"authorization": f"Bearer {made.key}"})
    assert opened(client, lambda: ENDS[way](record, made.id)) == ("refused", "invalid_api_key")
    assert client.get(f"{JOBS}/job-1/events/stream").status_code == 401


def test_a_stream_without_a_key_ends_when_keys_are_in_use(client, submit, monkeypatch):
    monkeypatch.setattr(event_watch, "EVERY_S", 0.01)
    submit()
    assert opened(client, lambda: keys.create_key("team-b")) == ("refused", "invalid_api_key")


def test_a_stream_ends_at_an_event_that_cannot_be_shown(client, submit, monkeypatch):
    monkeypatch.setattr(event_watch, "EVERY_S", 0.01)
    submit()

    def fault(session, rows):
        raise ValueError("a fault")

    assert opened(client, lambda: monkeypatch.setattr(event_news, "event_lines", fault)) == ("fault", "internal")
