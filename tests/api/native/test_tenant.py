"""``/v1/celora`` for a tenant: its queue, use, datasets, champions and schedules, and nothing of places."""

import pytest

from celora.services.tenants import limits

ANSWERS = {"base": ["x", "x", "x"], "tuned": ["r0", "r1", "x"]}


def test_an_empty_tenant_has_empty_lists(client):
    for path in ("queue", "usage", "datasets", "champions", "schedules"):
        assert client.get(f"/v1/celora/{path}").json() == {"object": "list", "data": []}


def test_a_champion_is_promoted_read_compared_and_rolled_back(client, contestant):
    for job_id in ("job-1", "job-2"):
        contestant(job_id, ANSWERS)
    for job_id in ("job-1", "job-2"):
        made = client.post("/v1/celora/champions/bot/promote", json={"job": job_id, "reason": "better"})
        assert (made.status_code, made.json()["job"]) == (200, job_id), made.text
    found = client.get("/v1/celora/champions/bot").json()
    assert (found["version"], found["job"]) == (2, "job-2")
    assert "adapter" not in found
    assert client.get("/v1/celora/compare", params={"one": "base", "other": "bot"}).json()["other"] == "job-2"
    assert client.post("/v1/celora/champions/bot/rollback").json()["job"] == "job-1"
    assert [one["name"] for one in client.get("/v1/celora/champions").json()["data"]] == ["bot"]
    actions = [line["action"] for line in client.get("/v1/celora/audit", params={"target": "bot"}).json()["data"]]
    assert actions[0] == "champion.rolled_back"


def test_a_tenant_reads_its_own_limits(client):
    limits.set_tenant("default", {"max_jobs": 3})
    assert client.get("/v1/celora/tenant").json()["max_jobs"] == 3


@pytest.mark.parametrize("path", ["champions/none", "schedules/none", "compare?one=base&other=none", "compare?one=a"])
def test_what_is_not_there_is_a_refusal(client, path):
    assert client.get(f"/v1/celora/{path}").status_code in (400, 404)
