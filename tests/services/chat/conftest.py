"""Trained models of two tenants in the record, with committed folders in the storage."""

from datetime import UTC, datetime

import pytest

from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Adapter, Checkpoint, Job, Tenant
from celora.settings.settings import get_settings
from celora.storage.manifest import write_manifest

AT = datetime(2026, 11, 30, tzinfo=UTC)
BASE = {"source": "owner/base", "kind": "hub", "name": "owner/base", "revision": "c0ffee", "parameters": 10**6,
        "context_tokens": 128, "model_type": "llama"}  # fmt: skip


@pytest.fixture
def add_model(record):
    """Adds a completed job with its adapter, and a checkpoint of step 3; returns the model's id."""

    def add(tenant="team-a", base=BASE, spec=None, quantization="nf4"):
        job_id, model = f"job-{tenant}", f"ft:base:{tenant}:bot:tail"
        uris = []
        for name in ("adapter", "checkpoint"):
            folder = get_settings().home / "artifacts" / job_id / name
            folder.mkdir(parents=True)
            (folder / "weights").write_text(name)
            write_manifest(folder)
            uris.append(f"{get_settings().artifacts}/{job_id}/{name}")
        fields = {"base_model": base["name"], "dataset": "rows", "tenant": tenant, "rank": 12, **(spec or {})}
        common = {"tenant": tenant, "created_at": AT}
        with record.transaction(Scope.everything) as session:
            session.merge(Tenant(name=tenant, created_at=AT))
            session.flush()
            session.add(Job(id=job_id, **common, status=Status.COMPLETED, stage=Stage.PUBLISH, gpu="cpu", updated_at=AT,
                            spec=fields, warnings=[], base=base, adapter_uri=uris[0],
                            resolved={"quantization": quantization}))  # fmt: skip
            session.flush()
            session.add(Adapter(id=job_id, **common, name="a", model_id=model, uri=uris[0], base_name=base["name"],
                                base_revision=base["revision"], rank=12))  # fmt: skip
            session.add(Checkpoint(job_id=job_id, attempt=1, step=3, uri=uris[1], size_bytes=1,
                                   manifest_sha256="0" * 64, created_at=AT))  # fmt: skip
        return model

    return add
