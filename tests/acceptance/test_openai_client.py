"""The unmodified ``openai`` client against the API over a real socket, in an environment of its own.

The newest client, and the last of the two major versions before. The jobs are moved by the record's transitions.
"""

import json

import pytest
from client_environment import install, run, run_program
from moved_job import Moved
from served_api import as_command

from celora.models.database import get_database
from celora.models.openai import job_requests
from celora.models.scope.scope import Scope
from celora.services.openai.result_file import write_result
from celora.services.tenants import keys, limits
from celora.settings.settings import get_settings
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each version of the client is installed first
VERSIONS = ("3.57.0", "2.54.0", "1.109.1")
FAILED, SUCCEEDED, CANCELLED = (f"fine_tuning.job.{end}" for end in ("failed", "succeeded", "cancelled"))
HOOKED = {
    "types": True, "tested": [202, True, True],
    "unwrapped": [[FAILED, None], [SUCCEEDED, SUCCEEDED], [None, None, CANCELLED]],
    "changed": ["new", [SUCCEEDED], True], "listed": True,
    "deleted": [True, ["NotFoundError", "webhook_endpoint_not_found", None, True, True]],
    "metadata": ["BadRequestError", "invalid_url", "url", True, True],
}  # fmt: skip
"""What the webhooks of the newest client find; the older ones cannot manage endpoints."""
ALIASES = '{"gpt-4o-mini": "smollm2-135m-instruct"}'


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    """A version of the client."""
    return request.param


@pytest.fixture(scope="module")
def python_with_client(version):
    """An interpreter that has this version of the client and nothing of celora."""
    return install(f"openai=={version}")


@pytest.fixture
def served(record, monkeypatch):
    """The base URL of an API of this home; no broker answers there."""
    monkeypatch.setenv("CELORA_MODEL_ALIASES", ALIASES)
    monkeypatch.setenv("CELORA_WEBHOOK_HOSTS", '["127.0.0.1"]')
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    with as_command() as (port, _):
        yield f"http://127.0.0.1:{port}/v1"


def test_programs_that_were_written_for_openai_run_here(python_with_client, served):
    def call(sequence, *strict, key="none-yet"):
        return run(python_with_client, served, key, sequence, *strict)

    found = call("lists")
    job_id = found.pop("job")
    assert found == {
        "files": True, "jobs": True, "label": True, "models": True, "model": "gpt-4o-mini", "content": True,
        "deleted": True, "events": [f"Created fine-tuning job: {job_id}"],
    }  # fmt: skip
    newest = f"openai-{VERSIONS[0]}" in str(python_with_client)
    assert call("webhooks", "strict") == (HOOKED if newest else {})
    found = call("forms", "strict")
    assert found["states"] in (["validating_files", "queued", "validating_files", "cancelled"],
                               ["validating_files", "cancelled"])  # fmt: skip
    assert (found["models"], found["tuned"]) == (["gpt-4o-mini"] * 3, [None] * 3)
    assert (found["epochs"], found["seed"], found["suffix"]) == ([3, "auto", "auto"], 7, "bot")
    assert call("refusals") == {
        "model": ["NotFoundError", "model_not_found", "model", True, True],
        "file": ["BadRequestError", "invalid_training_file", "training_file", True, True],
        "epochs": ["BadRequestError", "invalid_value", "hyperparameters.n_epochs", True, True],
        "job": ["NotFoundError", "job_not_found", None, True, True],
        "empty": ["BadRequestError", "invalid_value", "file", True, True],
        "purpose": ["BadRequestError", "invalid_value", "purpose", True, True],
        "cursor": ["BadRequestError", "invalid_cursor", "after", True, True],
    }
    assert call("asynchronous") == {"found": True}
    assert call("module") == {"found": True}
    assert call("nulls", "strict") == {
        "name": "train.jsonl", "parts": True, "cancelled": "cancelled", "epochs": "auto", "same": [True, True],
        "other": True, "deleted": True,
    }  # fmt: skip

    Moved(get_database(), job_id).complete([{"step": 1, "train_loss": 2.0, "eval_loss": 3.0},
                                            {"step": 2, "train_loss": 1.5}], checkpoints=(1, 2))  # fmt: skip
    write_result(get_database(), get_settings(), job_id)
    assert call("finished", "strict") == {
        "named": True, "first": "The job has successfully completed", "losses": ["2.0000", "1.5000"],
        "header": "step,train_loss,valid_loss", "cells": [[1, 2, 3], [2, 1.5, 3]], "owner": "default",
        "steps": [2, 1], "deleted": True, "ended": [["ConflictError", "invalid_state", None, True, True]],
    }  # fmt: skip

    secret = keys.create_key("team-b").key
    refused = ["AuthenticationError", "invalid_api_key", None, True, True]
    assert call("key") == {"models": refused, "upload": refused}
    with get_database().session(Scope.of("team-b")) as session:
        assert job_requests.page(session, "team-b", after=None, limit=5, labels={}) == ([], False)
    assert call("lists", key=secret)["jobs"] is True
    limits.set_tenant("team-b", {"storage_bytes": 1})
    assert call("quota", key=secret) == ["RateLimitError", "insufficient_quota", None, True, True]


def test_the_command_of_the_first_client_runs_here(version, python_with_client, served, tmp_path):
    if not version.startswith("1."):
        pytest.skip("OpenAI removed the command from its later clients")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "one", "completion": "1"}\n')

    def command(*words):
        line = [python_with_client.with_name("openai"), "-b", f"{served}/", "-k", "none-yet", "api", *words]
        return json.loads(run_program(line))

    file = command("files.create", "-f", str(tmp_path / "rows.jsonl"), "-p", "fine-tune")["id"]
    made = command("fine_tuning.jobs.create", "-m", "gpt-4o-mini", "-F", file, "-H", '{"n_epochs": 2}')
    assert made["hyperparameters"]["n_epochs"] == 2
    assert command("fine_tuning.jobs.retrieve", "-i", made["id"])["id"] == made["id"]
    assert made["id"] in json.dumps(command("fine_tuning.jobs.list"))
    assert "Created fine-tuning job" in json.dumps(command("fine_tuning.jobs.list_events", "-i", made["id"]))
    assert command("fine_tuning.jobs.cancel", "-i", made["id"])["status"] == "cancelled"
