"""The two routes at the root: a job by its query or its body, and its state."""

import pytest
from moved_job import Moved

from celora.services import jobs as native
from celora.services.tenants import keys

BASE = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def _broker_is_away(monkeypatch):
    monkeypatch.setattr(native.messages, "attempt", lambda send, what, **_: False)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one", "completion": "1"}\n')
    return str(path)


def test_a_job_is_started_by_its_query_or_its_body_and_shown(client, rows, record):
    wanted = {"base_model": BASE, "dataset_path": rows, "epochs": 2}
    for answer in (client.post("/finetune", params=wanted), client.post("/finetune", json=wanted)):
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        job_id = answer.json()["job_id"]
        state = client.get(f"/finetune/{job_id}").json()
        assert (state["status"], state["stage"], state["base_model"]) == ("pending", "prepare", BASE)
    Moved(record, job_id).complete([{"step": 1, "train_loss": 1.0}])
    assert client.get(f"/finetune/{job_id}").json()["model"].startswith("ft:")


def test_a_path_needs_the_key_of_an_operator(client, rows):
    key = keys.create_key("team-a").key
    wanted = {"base_model": BASE, "dataset_path": rows}
    answer = client.post("/finetune", params=wanted, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "dataset_path")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"dataset_path": "x"}, 400, "base_model"),
        ({"base_model": "nope", "dataset_path": "x"}, 404, "model"),
        ({"base_model": BASE, "dataset_path": "file-none"}, 404, None),
        ({"base_model": BASE, "dataset_path": "x", "epochs": 0}, 400, "epochs"),
    ],
)
def test_a_wrong_request_makes_no_job(client, fields, status, param):
    answer = client.post("/finetune", params=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
