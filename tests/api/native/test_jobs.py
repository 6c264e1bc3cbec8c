"""``/v1/celora/jobs`` as a client uses it."""

import json

import pytest

JOBS = "/v1/celora/jobs"


def test_a_completed_job_shows_its_summary_series_and_events(client, submit):
    submit().complete([{"step": step, "train_loss": 1 / step} for step in range(1, 31)])
    assert [job["id"] for job in client.get(JOBS).json()["data"]] == ["job-1"]
    assert client.get(f"{JOBS}/job-1").json()["status"] == "completed"
    found = client.get(f"{JOBS}/job-1/metrics", params={"points": 10, "name": "train_loss"}).json()
    assert found["series"]["train_loss"][0] == [1, 1.0]
    assert len(found["series"]["train_loss"]) <= 10
    events = client.get(f"{JOBS}/job-1/events").json()
    assert (events["data"][-1]["kind"], events["ended"]) == ("completed", True)
    assert client.get(f"{JOBS}/job-1/receipt").json()["error"]["code"] == "not_ready"
    assert client.get(f"{JOBS}/job-1/log").json()["error"]["code"] == "not_ready"


def test_a_stream_sends_events_from_the_last_id_on_and_ends_with_the_job(client, submit):
    submit().complete()
    whole = client.get(f"{JOBS}/job-1/events/stream")
    assert whole.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in whole.text.strip().split("\n\n")]
    assert (blocks[0]["event"], blocks[-1]["event"]) == ("submitted", "end")
    assert json.loads(blocks[-2]["data"])["kind"] == "completed"
    rest = client.get(f"{JOBS}/job-1/events/stream", headers={"Last-Event-ID": blocks[-3]["id"]})
    assert rest.text.count("event:") == 2


@pytest.mark.parametrize("headers", [{"Last-Event-ID": "x"}, {"Last-Event-ID": "-1"}, {"Last-Event-ID": "9" * 30}])
def test_a_wrong_last_id_is_refused(client, submit, headers):
    submit()
    assert client.get(f"{JOBS}/job-1/events/stream", headers=headers).status_code == 400


@pytest.mark.parametrize("query", ["limit=0", "after=none", "status=nice"])
def test_a_wrong_query_is_400(client, query):
    assert client.get(f"{JOBS}?{query}").status_code == 400


def test_an_unknown_series_is_refused(client, submit):
    submit()
    assert client.get(f"{JOBS}/job-1/metrics?name=nothing").json()["error"]["param"] == "name"
