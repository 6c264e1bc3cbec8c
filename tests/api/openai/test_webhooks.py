"""The routes of webhook endpoints: the contract of OpenAI's client, and each refusal with its code."""

import pytest
from hook_server import listening

from celora.settings.settings import get_settings

URL, TYPES = "https://hooks.example.org/", ["fine_tuning.job.succeeded", "fine_tuning.job.failed"]
FORM = {"name": "ci", "url": URL, "event_types": TYPES}


@pytest.fixture
def make(client):
    def send(**more):
        answer = client.post("/v1/webhook_endpoints", json={**FORM, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


def test_an_endpoint_shows_its_secret_once(client, make):
    made = make()
    secret = made.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert made == client.get(f"/v1/webhook_endpoints/{made['id']}").json()
    assert (made["object"], made["event_types"], made["signing_secret_hint"]) == (
        "webhook_endpoint", TYPES, f"whsec_…{secret[-4:]}",
    )  # fmt: skip
    assert made["celora"] == {"failing_since": None, "switched_off_at": None, "switched_off_reason": None}
    changed = client.post(f"/v1/webhook_endpoints/{made['id']}", json={"name": "new"}).json()
    assert (changed["name"], "signing_secret" in changed) == ("new", False)
    rotated = client.post(f"/v1/webhook_endpoints/{made['id']}/rotate_secret").json()
    assert rotated["signing_secret"] not in (secret, None)


def test_endpoints_are_pages_and_can_be_deleted(client, make):
    ids = [make()["id"] for _ in range(3)]
    first = client.get("/v1/webhook_endpoints", params={"limit": 2}).json()
    second = client.get("/v1/webhook_endpoints", params={"limit": 2, "after": first["last_id"]}).json()
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert sorted(one["id"] for one in first["data"] + second["data"]) == sorted(ids)
    gone = client.delete(f"/v1/webhook_endpoints/{ids[0]}").json()
    assert gone == {"id": ids[0], "object": "webhook_endpoint.deleted", "deleted": True}
    assert client.get(f"/v1/webhook_endpoints/{ids[0]}").status_code == 404


def test_the_types_of_events_are_those_of_jobs(client):
    found = client.get("/v1/webhook_event_types").json()
    assert found == {"object": "list", "data": [*TYPES, "fine_tuning.job.cancelled"]}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"url": "https://169.254.169.254/"}, "invalid_url", "url"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "invalid_url", "url"),
        ({"url": "http://hooks.example.org/"}, "invalid_url", "url"),
        ({"url": 7}, "invalid_value", "url"),
        ({"url": None}, "invalid_value", "url"),
        ({"name": ""}, "invalid_value", "name"),
        ({"event_types": []}, "invalid_value", "event_types"),
        ({"event_types": ["batch.completed"]}, "invalid_value", "event_types.0"),
        ({"event_types": TYPES[:1] * 2}, "invalid_value", "event_types"),
        ({"event_types": "fine_tuning.job.failed"}, "invalid_value", "event_types"),
        ({"secret": "mine"}, "unknown_parameter", "secret"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(client, changes, code, param):
    answer = client.post("/v1/webhook_endpoints", json={**FORM, **changes})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def test_what_is_missing_or_no_boolean_is_refused(client, make):
    error = client.post("/v1/webhook_endpoints", json={"name": "ci"}).json()["error"]
    assert error["code"] == "missing_required_parameter"
    path = f"/v1/webhook_endpoints/{make()['id']}/rotate_secret"
    answer = client.post(path, json={"keep_old_secret_active_for_24_hours": "yes"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keep_old_secret_active_for_24_hours")


def test_a_test_waits_for_the_answer(client, make, monkeypatch):
    with listening() as hooks:
        monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", f'["{hooks.host}"]')
        get_settings.cache_clear()
        made = make(url=f"{hooks.url}/404")
        path = f"/v1/webhook_endpoints/{made['id']}/test"
        answer = client.post(path, json={"event_type": TYPES[1]}).json()
        assert answer == {"object": "webhook_endpoint.test", "event_type": TYPES[1], "status_code": 404,
                          "success": True, "webhook_endpoint_id": made["id"]}  # fmt: skip
        assert TYPES[1].encode() in hooks.got[0][2]
        monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", "[]")
        get_settings.cache_clear()
        refused = client.post(path, json={"event_type": TYPES[1]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "endpoint_unreachable")
