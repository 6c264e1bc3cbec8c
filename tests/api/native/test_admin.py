"""``/v1/celora/admin``: for keys with the scope admin alone."""

import pytest

from celora.services.tenants import keys

ADMIN = "/v1/celora/admin"


@pytest.fixture
def operator(new_client):
    key = keys.create_key("default", scopes=["read", "submit", "admin"]).key
    return new_client(headers={"authorization": f"Bearer {key}"})


def test_a_key_is_made_rotated_and_revoked(operator, new_client):
    made = operator.post(f"{ADMIN}/keys", json={"tenant": "team-a", "name": "ci"}).json()
    assert made["scopes"] == ["read", "submit"]

    def asks(key):
        return new_client(headers={"authorization": f"Bearer {key}"}).get("/v1/files").status_code

    assert asks(made["key"]) == 200
    again = operator.post(f"{ADMIN}/keys/{made['id']}/rotate").json()
    assert (asks(made["key"]), asks(again["key"])) == (401, 200)
    assert operator.delete(f"{ADMIN}/keys/{again['id']}").json()["revoked_at"]
    assert asks(again["key"]) == 401
    listed = operator.get(f"{ADMIN}/keys", params={"tenant": "team-a"}).text
    assert made["key"] not in listed
    actions = [line["action"] for line in operator.get(f"{ADMIN}/audit", params={"tenant": "team-a"}).json()["data"]]
    assert actions == ["key.revoke", "key.rotate", "key.create"]


@pytest.mark.parametrize("end", ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "x"])
def test_a_key_with_an_impossible_end_is_not_made(operator, end):
    answer = operator.post(f"{ADMIN}/keys", json={"tenant": "team-a", "expires_at": end})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert [one["tenant"] for one in operator.get(f"{ADMIN}/keys").json()["data"]] == ["default"]


def test_limits_are_set_and_only_those_that_are_named(operator):
    operator.post(f"{ADMIN}/tenants/team-a", json={"max_jobs": 2, "weight": 3.0})
    found = operator.post(f"{ADMIN}/tenants/team-a", json={"max_jobs": None}).json()
    assert (found["max_jobs"], found["weight"]) == (None, 3.0)
    assert operator.get(f"{ADMIN}/tenants/team-a").json() == found
    granted = operator.post(f"{ADMIN}/tenants/team-a", json={"classes": "urgent,normal", "max_priority": -1}).json()
    assert (granted["classes"], granted["max_priority"]) == ("urgent,normal", -1)
    assert "team-a" in [one["name"] for one in operator.get(f"{ADMIN}/tenants").json()["data"]]
    for name, value in (
        ("max_job", 1),
        ("max_jobs", True),
        ("max_jobs", "5"),
        ("weight", True),
        ("weight", 1e-9),
        ("over", "no"),
    ):
        wrong = operator.post(f"{ADMIN}/tenants/team-a", json={name: value})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, name)
    for classes in ("root", "urgent", ""):
        assert operator.post(f"{ADMIN}/tenants/team-a", json={"classes": classes}).status_code == 400


def test_workers_are_listed_and_one_that_is_not_there_is_404(operator):
    assert operator.get(f"{ADMIN}/workers").json()["data"] == []
    assert operator.post(f"{ADMIN}/workers/none/drain").status_code == 404
    assert operator.post(f"{ADMIN}/workers/none/dance").status_code == 400


@pytest.mark.parametrize("path", ["tenants", "tenants/default", "keys", "audit", "workers"])
def test_a_tenants_key_reads_none_of_it(new_client, path):
    key = keys.create_key("team-a").key
    assert new_client(headers={"authorization": f"Bearer {key}"}).get(f"{ADMIN}/{path}").status_code == 403
