"""Adapters of deleted models leave the serving server; all others stay, and a server that is away stops nothing."""

import pytest
from fake_vllm import FakeVllm

from celora.models.database import now
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter
from celora.services.chat.unloading import unload_deleted, unload_jobs
from celora.settings.settings import get_settings, load_settings


@pytest.fixture
def server(record, add_model, tmp_path, monkeypatch):
    """A server with the adapters of two tenants and one of the operator's; the model of team-a is deleted."""
    for tenant in ("team-a", "team-b"):
        add_model(tenant)
    with record.transaction(Scope.everything) as session:
        session.get_one(Adapter, "job-team-a").deleted_at = now(session)
    with FakeVllm("owner/base") as server:
        monkeypatch.setenv("CELORA_SERVING_URL", server.url)
        get_settings.cache_clear()
        server.adapters = dict.fromkeys(("job-team-a", "job-team-a@3", "job-team-b", "by-hand"), str(tmp_path))
        yield server


def test_a_deleted_model_leaves_with_its_checkpoints(server, record):
    assert unload_deleted(record, get_settings()) == 2
    assert sorted(server.adapters) == ["by-hand", "job-team-b"]
    assert unload_deleted(record, get_settings()) == 0
    assert server.unloads == ["job-team-a", "job-team-a@3"]


def test_the_jobs_of_a_deleted_tenant_leave(server):
    assert unload_jobs(get_settings(), ["job-team-b", "job-none"]) == 1
    assert "job-team-b" not in server.adapters
    assert unload_jobs(get_settings(), []) == 0


def test_a_server_that_unloads_nothing_or_is_away_stops_nothing(server, record, caplog):
    server.keeps_adapters = True
    assert unload_deleted(record, get_settings()) == 0
    assert "did not unload the adapter job-team-a" in caplog.text
    away = load_settings(serving_url="http://127.0.0.1:1")
    assert (unload_deleted(record, away), unload_jobs(away, ["job-team-b"])) == (0, 0)
    assert unload_deleted(record, load_settings(serving_url="")) == 0
