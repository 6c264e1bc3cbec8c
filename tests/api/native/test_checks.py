"""Checks of data over HTTP: asked for like a job, read by their id, and deleted."""

import pytest

from celora.models.openai import data_checks
from celora.models.scope.scope import Scope
from celora.services.native import checks

CHECKS = "/v1/celora/checks"
ROWS = b'{"prompt": "one", "completion": "1"}\n'


@pytest.fixture
def body(client, monkeypatch):
    """The request of a check, whose file is there; the broker is away."""
    monkeypatch.setattr(checks.messages, "attempt", lambda *_, **__: False)
    sent = client.post("/v1/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"})
    return {"model": "smollm2-135m-instruct", "training_file": sent.json()["id"]}


def test_a_check_is_read_until_its_end_and_deleted(client, record, body):
    made = client.post(CHECKS, json=body).json()
    assert (made["object"], made["status"], made["expires_at"] - made["created_at"]) == (
        "celora.check",
        "waiting",
        3600,
    )
    place = f"{CHECKS}/{made['id']}"
    assert client.get(place).json() == made
    with record.transaction(Scope.everything) as session:
        fault = {"code": "bad_data", "message": "line 1", "hint": ""}
        data_checks.end_check(session, made["id"], {"receipt": {"ok": False}, "error": fault, "failure": None})
    ended = client.get(place).json()
    assert (ended["status"], ended["receipt"], ended["error"]) == ("ended", {"ok": False}, fault)
    assert client.delete(place).json() == {"id": made["id"], "object": "celora.check", "deleted": True}
    gone = client.get(place)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "check_not_found")


def test_no_job_comes_of_a_check(client, body):
    client.post(CHECKS, json=body)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [({"model": 3}, "model"), ({"training_file": "file-none"}, "training_file"), ({"surprise": 1}, "surprise"),
     ({"celora": {"gpu": "abacus"}}, "celora.gpu")],
)  # fmt: skip
def test_a_request_that_no_job_may_have_is_refused(client, body, change, param):
    refused = client.post(CHECKS, json={**body, **change})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_too_many_open_checks_are_429_and_say_when_to_try_again(client, body):
    codes = [client.post(CHECKS, json=body) for _ in range(checks.MOST_OPEN + 1)]
    assert [answer.status_code for answer in codes] == [200] * checks.MOST_OPEN + [429]
    assert codes[-1].headers["retry-after"] == "10"
