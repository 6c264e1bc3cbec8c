"""Every change over HTTP stands in the audit with the key that made it."""

from moved_job import Moved
from starlette.testclient import TestClient

from celora.api.app import create_app
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tenants.audit import list_audit
from celora.services.openai import files
from celora.services.tenants import keys

ROWS = b'{"prompt": "one", "completion": "1"}\n'


def test_each_change_names_the_key_and_the_address(record, monkeypatch):
    monkeypatch.setattr(files.messages, "attempt", lambda _send, _what, **_: False)  # the broker is away
    made = keys.create_key("team-a", name="ci")
    headers = {"authorization": f"Bearer {made.key}"}
    with TestClient(create_app(), base_url="http://127.0.0.1:8320", headers=headers, client=("127.0.0.1", 5)) as client:
        upload = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", ROWS)}}
        file_id = client.post("/v1/files", **upload).json()["id"]
        body = {"model": "smollm2-135m-instruct", "training_file": file_id}
        done = client.post("/v1/fine_tuning/jobs", json=body).json()["id"]
        Moved(record, done).complete([{"step": 1, "train_loss": 1.0}])
        model = client.get(f"/v1/fine_tuning/jobs/{done}").json()["fine_tuned_model"]
        assert client.delete(f"/v1/models/{model}").status_code == 200
        other = client.post("/v1/fine_tuning/jobs", json=body).json()["id"]
        assert client.post(f"/v1/fine_tuning/jobs/{other}/pause").status_code == 200
        assert client.post(f"/v1/fine_tuning/jobs/{other}/resume").status_code == 200
        assert client.post(f"/v1/fine_tuning/jobs/{other}/cancel").status_code == 200
        assert client.delete(f"/v1/files/{file_id}").status_code == 200
    with get_database().session(Scope.of("team-a")) as session:
        rows = list_audit(session, tenant="team-a")
        assert [(row.action, row.object) for row in reversed(rows)][1:] == [
            ("file.create", file_id), ("job.submit", done), ("model.delete", model), ("job.submit", other),
            ("job.pause", other), ("job.resume", other), ("job.cancel", other), ("file.delete", file_id),
        ]  # fmt: skip
        assert {(row.actor, row.key_id, row.address) for row in rows[:-1]} == {("ci", made.id, "127.0.0.1")}
