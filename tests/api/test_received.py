"""The one file of a request: it is kept whole, or nothing of it stays."""

import pytest

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import File
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

ROWS = b'{"prompt": "one", "completion": "1"}\n'


def contents():
    artifacts = Artifacts(get_settings().artifacts)
    return artifacts.list_files(artifacts.uri("datasets"))


def send(client, files, **fields):
    return client.post("/v1/files", data={"purpose": "fine-tune", **fields}, files=files)


@pytest.fixture(autouse=True)
def _broker_is_away(monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()


def test_a_file_is_kept_whole(client):
    made = send(client, {"file": ("rows.jsonl", ROWS)}).json()
    assert client.get(f"/v1/files/{made['id']}/content").content == ROWS
    assert len(contents()) == 1


@pytest.mark.parametrize(
    ("files", "fields", "refusal"),
    [
        ({"other": ("rows.jsonl", ROWS)}, {}, (400, "unknown_parameter", None)),
        ({"file": ("rows.jsonl", b"")}, {}, (400, "invalid_value", "file")),
        ({"file": ("rows.jsonl", ROWS)}, {"purpose": "vision"}, (400, "invalid_value", "purpose")),
        ({"file": ("rows.jsonl", ROWS)}, {"more": "x"}, (400, "unknown_parameter", "more")),
        ({"file": ("rows.jsonl", ROWS * 9)}, {}, (413, "request_too_large", None)),
    ],
)
def test_of_a_request_that_is_refused_nothing_stays(client, monkeypatch, files, fields, refusal):
    monkeypatch.setenv("CELORA_UPLOAD_BYTES", "200")
    get_settings.cache_clear()
    answer = send(client, files, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == refusal
    assert contents() == []
    with get_database().session(Scope.everything) as session:
        assert session.query(File).count() == 0
