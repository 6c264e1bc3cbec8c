"""The look-ups of a person's commands, over HTTP."""

import pytest

CELORA = "/v1/celora"


def test_the_beginning_of_an_id_is_completed_and_an_unknown_one_is_404(client, submit):
    submit("answers-1")
    submit("answers-2")
    submit("other")
    assert client.get(f"{CELORA}/ids/oth").json() == {"id": "other"}
    assert client.get(f"{CELORA}/ids/answers-2").json() == {"id": "answers-2"}
    for beginning, sentence in (("answers", "more than one job"), ("nobody", "no job nobody")):
        answer = client.get(f"{CELORA}/ids/{beginning}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert sentence in answer.json()["error"]["message"]


def test_waiting_jobs_stand_in_the_order_of_their_turn_with_the_reason(client, submit):
    submit("job-1")
    submit("job-2")
    submit("done").complete()
    found = client.get(f"{CELORA}/waiting").json()["data"]
    assert [(one["id"], one["position"], one["stage"]) for one in found] == [
        ("job-1", 1, "prepare"),
        ("job-2", 2, "prepare"),
    ]
    assert [one["id"] for one in client.get(f"{CELORA}/waiting?limit=1").json()["data"]] == ["job-1"]


def test_why_gives_the_steps_and_refuses_a_job_that_does_not_wait(client, submit):
    submit("job-1")
    found = client.get(f"{CELORA}/jobs/job-1/why").json()
    assert (found["entry"]["id"], found["entry"]["position"]) == ("job-1", 1)
    assert [step["rule"] for step in found["steps"]][:2] == ["limits", "slots"]
    submit("done").complete()
    refused = client.get(f"{CELORA}/jobs/done/why")
    assert (refused.status_code, "it does not wait" in refused.text) == (400, True)


@pytest.mark.parametrize(("named", "code"), [("waits", "not_ready"), ("nobody", "not_found")])
def test_an_adapter_that_is_not_there_is_404(client, submit, named, code):
    submit("waits")
    answer = client.get(f"{CELORA}/adapters/{named}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_an_adapter_is_found_by_its_name_and_by_its_jobs_id(client, submit):
    submit("job-1").complete()
    by_name, by_id = (client.get(f"{CELORA}/adapters/{named}").json() for named in ("a", "job-1"))
    assert by_name["job_id"] == by_id["job_id"] == "job-1"
    assert by_id["base"] == {"name": "tiny", "revision": "r1"}
    assert by_name["found_as"] == "adapter a: job job-1"
