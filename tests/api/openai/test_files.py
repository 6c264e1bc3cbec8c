"""``/v1/files`` as a client uses it."""

import pytest

from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

ROWS = b'{"prompt": "one", "completion": "1"}\n'


def stored(home):
    artifacts = Artifacts(get_settings().artifacts)
    return artifacts.names(artifacts.uri("datasets"))


def test_a_file_comes_in_and_out_again(client, upload):
    made = upload().json()
    assert made | {"id": "", "created_at": 0} == {
        "id": "", "object": "file", "bytes": len(ROWS), "created_at": 0, "expires_at": None, "filename": "rows.jsonl",
        "purpose": "fine-tune", "status": "uploaded", "status_details": None,
    }  # fmt: skip
    assert client.get(f"/v1/files/{made['id']}").json() == made
    assert client.get(f"/v1/files/{made['id']}/content").content == ROWS
    assert client.delete(f"/v1/files/{made['id']}").json() == {"id": made["id"], "object": "file", "deleted": True}
    gone = client.get(f"/v1/files/{made['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "file_not_found")


def test_a_file_can_have_a_time(upload):
    made = upload(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json()
    assert made["expires_at"] - made["created_at"] in (3600, 3601)


def test_pages_of_files(client, upload):
    made = [upload().json()["id"] for _ in range(3)]
    first = client.get("/v1/files", params={"limit": 2, "order": "asc"}).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (made[:2], True)
    rest = client.get("/v1/files", params={"limit": 2, "order": "asc", "after": first["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (made[2:], False)


@pytest.mark.parametrize(
    ("fields", "content", "param"),
    [
        ({}, b"", "file"),
        ({"purpose": "assistants"}, ROWS, "purpose"),
        ({"extra": "1"}, ROWS, "extra"),
        ({"expires_after[seconds]": "3599"}, ROWS, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3600"}, ROWS, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at"}, ROWS, "expires_after[seconds]"),
    ],
)
def test_a_refused_file_leaves_nothing(upload, home, fields, content, param):
    answer = upload(content, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert stored(home) == []


def test_a_body_without_a_file_names_it(client):
    answer = client.post("/v1/files", files={"purpose": (None, "fine-tune")})
    assert answer.json()["error"] | {"message": ""} == {
        "message": "", "type": "invalid_request_error", "param": "file", "code": "missing_required_parameter",
    }  # fmt: skip


def test_a_file_above_the_limit_is_refused_by_its_length_and_by_its_bytes(upload, client, home, monkeypatch):
    monkeypatch.setenv("CELORA_UPLOAD_BYTES", "1000")
    get_settings.cache_clear()
    assert upload(b"x" * (2 << 20)).status_code == 413
    assert upload(b"x" * 1001).json()["error"]["code"] == "request_too_large"
    assert stored(home) == []
    assert upload(b"x" * 1000).status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=nothing"])
def test_a_wrong_query_is_400(client, query):
    answer = client.get(f"/v1/files?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])
