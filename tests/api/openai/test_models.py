"""``/v1/models``: bases, aliases and own models; ids with slashes, raw and percent-encoded."""

from fake_vllm import FakeVllm
from moved_job import Moved
from waiting import until

from celora.settings.settings import get_settings


def test_bases_and_aliases_are_listed(client, monkeypatch):
    monkeypatch.setenv("CELORA_MODEL_ALIASES", '{"gpt-4o-mini": "smollm2-135m-instruct"}')
    monkeypatch.setenv("CELORA_ALLOWED_BASES", '["org/tiny", "smollm2-*"]')
    get_settings.cache_clear()
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["gpt-4o-mini", "org/tiny", "smollm2-135m-instruct"]
    for path in ("org/tiny", "org%2Ftiny"):
        assert client.get(f"/v1/models/{path}").json()["id"] == "org/tiny"


def test_a_trained_model_is_retrieved_deleted_and_unloaded(client, submit, record, monkeypatch):
    job = submit(suffix="bot")
    Moved(record, job["id"]).complete([{"step": 1, "train_loss": 1.0}])
    model = client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["fine_tuned_model"]
    assert model.startswith("ft:smollm2-135m-instruct:default:bot:")
    assert client.get(f"/v1/models/{model}").json()["owned_by"] == "default"
    with FakeVllm("base") as server:
        monkeypatch.setenv("CELORA_SERVING_URL", server.url)
        get_settings.cache_clear()
        server.adapters[job["id"]] = "folder"
        assert client.delete(f"/v1/models/{model.replace(':', '%3A')}").json()["deleted"] is True
        until(lambda: not server.adapters)
    gone = client.get(f"/v1/models/{model}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
