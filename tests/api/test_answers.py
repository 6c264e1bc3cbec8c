"""The envelope: every answer that is an error has it, those of the framework included."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from celora.api.answers import answer_of, refusal, unexpected
from celora.errors import (
    CeloraError,
    DiskFullError,
    NotFoundError,
    RequestError,
    SettingsError,
    TrainingError,
    UnavailableError,
)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n_epochs: int

    @field_validator("n_epochs")
    @classmethod
    def _few(cls, value):
        if value > 50:
            raise ValueError("use 1 to 50 epochs")
        return value


class Outer(BaseModel):
    method: Inner


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (RequestError("no.", reason="model_not_found", param="model", status=404), 404, "model_not_found", {}),
        (RequestError("later.", reason="rate_limit_exceeded", status=429, headers={"retry-after": "3"}), 429,
         "rate_limit_exceeded", {"retry-after": "3"}),
        (NotFoundError("there is no job x."), 404, "not_found", {}),
        (SettingsError("rank: 0 is too small."), 400, "invalid_value", {}),
        (UnavailableError("no database."), 503, "unavailable", {"retry-after": "5"}),
        (DiskFullError("no space."), 503, "unavailable", {"retry-after": "5"}),
        (TrainingError("a fault"), 500, "internal", {}),
    ],
)  # fmt: skip
def test_each_error_has_a_status_and_a_code(error, status, code, headers):
    answer = answer_of(error)
    assert answer.status_code == status
    assert f'"code":"{code}"' in answer.body.decode()
    assert {name: answer.headers[name] for name in headers} == headers


def test_a_fault_of_the_server_tells_nothing_about_itself():
    body = unexpected(CeloraError("/home/ada/secret is gone")).body.decode()
    assert "ada" not in body
    assert "internal" in body


@pytest.mark.parametrize(
    ("value", "code", "param", "words"),
    [
        ({"method": {"n_epochs": 99}}, "invalid_value", "method.n_epochs", "1 to 50 epochs"),
        ({"method": {"n_epochs": 1, "lr": 2}}, "unknown_parameter", "method.lr", "no parameter"),
        ({"method": {}}, "missing_required_parameter", "method.n_epochs", "missing"),
    ],
)
def test_a_refused_value_names_its_dotted_place(value, code, param, words):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    error = refusal(caught.value.errors())
    assert (error.reason, error.param, error.status) == (code, param, 400)
    assert words in error.message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/fine_tuning/jobs", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/" + "a" * 5000, 404, "not_found"),
    ],
)
def test_the_frameworks_own_refusals_have_the_envelope(client, method, path, status, code):
    answer = client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 250
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/files", "GET, POST"), ("/v1/models/org/m", "DELETE, GET"), ("/v1/webhook_endpoints/x", "DELETE, GET, POST")],
)
def test_a_refused_method_is_told_all_that_the_path_has(client, path, methods):
    for method in ("HEAD", "OPTIONS", "PATCH", "PUT", "TRACE"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_path_without_v1_is_told_so(client):
    message = client.get("/fine_tuning/jobs").json()["error"]["message"]
    assert "/v1" in message
    assert "base_url" in message


def test_a_base_url_without_its_last_slash_is_told_so(client):
    message = client.get("/v1files").json()["error"]["message"]
    assert message == "there is no /v1files: end base_url with a slash, http://127.0.0.1:8320/v1/"
