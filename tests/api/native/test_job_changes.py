"""A job is changed over celora's own routes, and each answer says what became of it."""

from celora.models.states import Stage

JOBS = "/v1/celora/jobs"


def test_a_job_pauses_and_goes_on_and_a_cancelled_one_is_retried(client, submit):
    submit()
    paused = client.post(f"{JOBS}/job-1/pause").json()
    assert (paused["paused"], paused["answer"]) == (True, "paused")
    resumed = client.post(f"{JOBS}/job-1/resume").json()
    assert (resumed["paused"], resumed["resumed"]) == (False, True)
    assert client.post(f"{JOBS}/job-1/resume").json()["resumed"] is False
    for budget in (-1, True, "5"):
        assert client.post(f"{JOBS}/job-1/resume", json={"budget": budget}).json()["error"]["param"] == "budget"
    assert client.post(f"{JOBS}/job-1/cancel").json()["answer"] == "cancelled"
    for verb in ("cancel", "pause", "resume"):
        assert client.post(f"{JOBS}/job-1/{verb}").json()["error"]["code"] == "invalid_state"
    made = client.post(f"{JOBS}/job-1/retry", json={"changes": {"priority": 7}}).json()
    assert (made["retry_of"], made["priority"]) == ("job-1", 7)
    for name in ("dataset", "tenant", "nothing"):
        answer = client.post(f"{JOBS}/job-1/retry", json={"changes": {name: "x"}})
        assert answer.json()["error"]["param"] == f"changes.{name}"
    for name, value in (("gpu", "h9000"), ("rank", 0), ("metadata", {"k": "v" * 600})):
        answer = client.post(f"{JOBS}/job-1/retry", json={"changes": {name: value}})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"changes.{name}")


def test_a_running_job_is_pausing_then_cancelling(client, submit):
    submit().begin(Stage.PREPARE)
    assert client.post(f"{JOBS}/job-1/pause").json()["answer"] == "pausing"
    assert client.post(f"{JOBS}/job-1/cancel").json()["answer"] == "cancelling"
