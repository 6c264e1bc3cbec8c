"""A client whose broker is away: messages are lost, and nothing waits for them."""

import pytest

from celora.services.openai import files

ROWS = b'{"prompt": "one", "completion": "1"}\n'


@pytest.fixture(autouse=True)
def _broker_is_away(monkeypatch):
    monkeypatch.setattr(files.messages, "attempt", lambda send, what, **_: False)


@pytest.fixture
def upload(client):
    def send(content=ROWS, name="rows.jsonl", **fields):
        data = {"purpose": "fine-tune", **fields}
        return client.post("/v1/files", data=data, files={"file": (name, content, "application/octet-stream")})

    return send


@pytest.fixture
def submit(client, upload):
    """Makes a job and returns its object."""

    def send(headers=None, **fields):
        body = {"model": "smollm2-135m-instruct", "training_file": upload().json()["id"], **fields}
        answer = client.post("/v1/fine_tuning/jobs", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send
