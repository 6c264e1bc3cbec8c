"""``/v1/celora/jobs`` as a client uses it."""

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


@pytest.mark.parametrize("query", ["limit=0", "after=none", "status=nice"])
def test_a_wrong_query_is_400(client, query):
    assert client.get(f"{JOBS}?{query}").status_code == 400


def test_an_unknown_series_is_refused(client, submit):
    submit()
    assert client.get(f"{JOBS}/job-1/metrics?name=nothing").json()["error"]["param"] == "name"
