"""``/v1/fine_tuning/jobs`` as a client uses it."""

import pytest
from moved_job import Moved

from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.services import jobs as native
from celora.services.tenants import secrets
from celora.settings.settings import get_settings
from celora.workers.trainer.environment import secrets_for

JOBS = "/v1/fine_tuning/jobs"
REQUIRED = {
    "id", "object", "created_at", "finished_at", "model", "fine_tuned_model", "organization_id", "status", "error",
    "hyperparameters", "method", "training_file", "validation_file", "result_files", "trained_tokens", "seed",
    "estimated_finish", "integrations", "metadata", "user_provided_suffix", "celora",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_ticks(monkeypatch):
    monkeypatch.setattr(native, "request_tick", lambda: None)
    monkeypatch.setattr(native.results, "announce", lambda *_, **__: None)


def test_a_new_job_has_every_key(submit):
    job = submit(suffix="bot", metadata={"team": "blue"}, seed=5)
    assert set(job) == REQUIRED
    facts = ("object", "status", "model", "seed", "user_provided_suffix", "metadata", "result_files", "error")
    assert [job[name] for name in facts] == [
        "fine_tuning.job", "validating_files", "smollm2-135m-instruct", 5, "bot", {"team": "blue"}, [], None,
    ]  # fmt: skip


def test_a_job_from_preferences_says_so(submit):
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.3}}}
    job = submit(method=method)
    wanted = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto", "beta": 0.3}
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": wanted}}
    assert job["celora"]["method"] == "dpo"


def test_a_job_reports_to_wandb_once_its_tenant_has_a_secret(client, upload, record):
    asked = [{"type": "wandb", "wandb": {"project": "shop", "name": "first", "entity": None, "tags": ["a", "b"]}}]
    body = {"model": "smollm2-135m-instruct", "training_file": upload().json()["id"], "integrations": asked}
    assert client.post(JOBS, json=body).json()["error"]["code"] == "missing_secret"
    secrets.set_secret("WANDB_API_KEY", "a-key-of-the-tracker")
    made = client.post(JOBS, json=body)
    assert made.json()["integrations"] == asked
    assert "a-key-of-the-tracker" not in made.text
    with record.session(Scope.everything) as session:
        spec = parse_spec(session.get_one(Job, made.json()["id"]).spec)
    found = secrets_for(get_settings(), spec)
    assert found == {"WANDB_PROJECT": "shop", "WANDB_NAME": "first", "WANDB_TAGS": "a,b",
                     "WANDB_API_KEY": "a-key-of-the-tracker"}  # fmt: skip
    twice = client.post(JOBS, json={**body, "integrations": asked * 2})
    assert twice.json()["error"]["param"] == "integrations"
    for own in ({"report_to": ["tensorboard"]}, {"wandb": {"project": "x"}}):
        assert client.post(JOBS, json={**body, "celora": own}).status_code == 400


def test_jobs_are_listed_and_found_by_labels(client, submit):
    made = [submit(metadata={"n": str(number)})["id"] for number in range(3)]
    submit()
    page = client.get(JOBS, params={"limit": 2}).json()
    assert page["has_more"] is True
    rest = client.get(JOBS, params={"limit": 2, "after": page["last_id"]}).json()
    assert [job["id"] for job in rest["data"]] == [made[1], made[0]]
    assert [job["id"] for job in client.get(JOBS, params={"metadata[n]": "1"}).json()["data"]] == [made[1]]
    assert [job["id"] for job in client.get(f"{JOBS}?metadata%5Bn%5D=2").json()["data"]] == [made[2]]
    assert client.get(f"{JOBS}?metadata%5Bn%5D=").json()["data"] == []
    assert len(client.get(f"{JOBS}?metadata=null").json()["data"]) == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=none", "metadata=x", "metadata[=1",
                                   "metadata=null&metadata[a]=1", "metadata[a]=1&metadata[a]=2",
                                   "&".join(f"metadata[{n}]=1" for n in range(3000))])  # fmt: skip
def test_a_wrong_query_is_400(client, query):
    answer = client.get(f"{JOBS}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0].partition("[")[0]


def test_a_repetition_makes_no_second_job(client, upload):
    body = {"model": "smollm2-135m-instruct", "training_file": upload().json()["id"]}
    one = client.post(JOBS, json=body).json()["id"]
    for number in ("1", "02"):
        assert client.post(JOBS, json=body, headers={"x-stainless-retry-count": number}).json()["id"] == one
    for number in ("0", "-1", "one"):
        assert client.post(JOBS, json=body, headers={"x-stainless-retry-count": number}).json()["id"] != one
    keyed = client.post(JOBS, json=body, headers={"Idempotency-Key": "k"}).json()["id"]
    assert client.post(JOBS, json=body, headers={"Idempotency-Key": "k"}).json()["id"] == keyed
    assert len(client.get(JOBS).json()["data"]) == 5


def test_a_job_pauses_goes_on_and_is_cancelled(client, submit):
    job_id = submit()["id"]
    paused = client.post(f"{JOBS}/{job_id}/pause").json()
    assert (paused["celora"]["status"], paused["status"]) == ("paused", "queued")
    assert client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "validating_files"
    assert client.post(f"{JOBS}/{job_id}/cancel").json()["status"] == "cancelled"
    refused = client.post(f"{JOBS}/{job_id}/pause")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    assert client.get(f"{JOBS}/nothing").json()["error"]["code"] == "job_not_found"


def test_events_and_checkpoints_are_pages(client, submit, record):
    job_id = submit()["id"]
    Moved(record, job_id).complete([{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5}], checkpoints=(1, 2))
    newest = client.get(f"{JOBS}/{job_id}/events", params={"limit": 1}).json()
    assert (newest["data"][0]["message"], newest["has_more"]) == ("The job has successfully completed", True)
    assert client.get(f"{JOBS}/{job_id}/events", params={"limit": 1000}).json()["has_more"] is False
    for limit in (0, 1001, 10**9):
        assert client.get(f"{JOBS}/{job_id}/events", params={"limit": limit}).status_code == 400
    found = client.get(f"{JOBS}/{job_id}/checkpoints").json()
    assert [one["step_number"] for one in found["data"]] == [2, 1]
    assert found["data"][0]["metrics"]["train_loss"] == 1.5


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"training_file": "file-x"}, "invalid_training_file", "training_file"),
        ({"model": "nope"}, "model_not_found", "model"),
        ({"hyperparameters": {"n_epochs": 99}}, "invalid_value", "hyperparameters.n_epochs"),
        ({"unknown": 1}, "unknown_parameter", "unknown"),
        ({"celora": {"rank": 0}}, "invalid_value", "celora.rank"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", f"metadata.{'k' * 65}"),
        ({"k" * 5000: 1}, "unknown_parameter", "k" * 100),
        ({"method": {"type": "reinforcement"}}, "unsupported_method", "method.type"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
            "invalid_value",
            "method.dpo.hyperparameters.beta",
        ),
    ],
)
def test_each_refusal_has_a_code_and_a_place(client, upload, fields, code, param):
    body = {"model": "smollm2-135m-instruct", "training_file": upload().json()["id"], **fields}
    error = client.post(JOBS, json=body).json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert client.get(JOBS).json()["data"] == []
