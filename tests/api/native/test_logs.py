"""The whole logs of a job over HTTP, piece by piece."""

import pytest

LOGS = "/v1/celora/jobs/job-1/logs"


def test_a_job_without_logs_has_an_empty_list(client, submit):
    submit()
    assert client.get(LOGS).json() == {"object": "list", "data": [], "ended": False}


@pytest.mark.parametrize("name", ["001-train.log.gz", "..%2F..%2Fcelora.db", "1-train.log", "001-sleep.log"])
def test_a_name_that_is_no_log_is_refused(client, submit, name):
    submit()
    answer = client.get(f"{LOGS}/{name}")
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] in ("invalid_value", "not_found")


def test_a_log_that_is_not_written_yet_is_404(client, submit):
    submit()
    assert client.get(f"{LOGS}/001-train.log").json()["error"]["code"] == "not_ready"
