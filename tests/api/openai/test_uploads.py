"""``/v1/uploads`` as a client uses it."""

import hashlib

import pytest

from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

ROWS = b'{"prompt": "one", "completion": "1"}\n' * 4


@pytest.fixture
def begin(client):
    def send(**fields):
        form = {"bytes": len(ROWS), "filename": "rows.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
        return client.post("/v1/uploads", json={**form, **fields})

    return send


def add(client, upload_id, content):
    return client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", content)})


def test_a_file_comes_in_parts(client, begin):
    made = begin(expires_after={"anchor": "created_at", "seconds": 3600}).json()
    assert made | {"id": "", "created_at": 0, "expires_at": 0} == {
        "id": "", "object": "upload", "bytes": len(ROWS), "created_at": 0, "expires_at": 0, "filename": "rows.jsonl",
        "purpose": "fine-tune", "status": "pending", "file": None,
    }  # fmt: skip
    assert made["expires_at"] - made["created_at"] == 3600
    parts = [add(client, made["id"], piece).json() for piece in (ROWS[:50], ROWS[50:])]
    assert {part["object"] for part in parts} == {"upload.part"}
    done = client.post(
        f"/v1/uploads/{made['id']}/complete",
        json={"part_ids": [part["id"] for part in parts], "md5": hashlib.md5(ROWS).hexdigest()},  # noqa: S324
    ).json()
    assert done["status"] == "completed"
    assert done["file"]["expires_at"] - done["file"]["created_at"] in (3600, 3601)
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == ROWS


def test_a_cancelled_upload_says_so(client, begin):
    upload_id = begin().json()["id"]
    assert client.post(f"/v1/uploads/{upload_id}/cancel").json()["status"] == "cancelled"
    refused = add(client, upload_id, ROWS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_state")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": "9"}, "bytes"),
        ({"bytes": 2**40}, "bytes"),
        ({"purpose": "batch"}, "purpose"),
        ({"extra": 1}, "extra"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": "3600"}}, "expires_after.seconds"),
    ],
)
def test_a_wrong_announcement_is_refused(begin, fields, param):
    answer = begin(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_refused_part_leaves_nothing(client, begin, home):
    upload_id = begin().json()["id"]
    for content in (b"", ROWS + b"x"):
        answer = add(client, upload_id, content)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "data")
    assert add(client, "upload-none", ROWS).status_code == 404
    artifacts = Artifacts(get_settings().artifacts)
    assert artifacts.list_files(artifacts.uri("uploads")) == []
    assert artifacts.names(artifacts.uri("datasets")) == []
