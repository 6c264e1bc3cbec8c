"""An adapter is pulled from a server as from this machine's record: the same files, the same lines of Python."""

import pytest

from celora.cli.open_record import record
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter, Job
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest
from celora.tuning.protocol import Base

BASE = Base(source="org/model", kind="hub", name="org/model", revision="c0ffee", parameters=1, context_tokens=64,
            model_type="llama")  # fmt: skip


@pytest.fixture
def published(job, tmp_path):
    """A job with a published adapter, and the folder of its artifacts."""
    folder = tmp_path / "published"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 50_000)
    (folder / "deep" / "card.md").write_text("card")
    write_manifest(folder)
    artifacts = Artifacts(get_settings().artifacts)
    uri = artifacts.uri("jobs", job, "attempt-1", "published")
    artifacts.put_folder(folder, uri)
    with record().transaction(Scope.everything) as session:
        row = session.get_one(Job, job)
        row.adapter_uri, row.base, row.name = uri, BASE.model_dump(), "model-x"
        session.add(Adapter(id=job, tenant="default", created_at=row.created_at, name="model-x", base_name="org/model",
                            base_revision="c0ffee", uri=uri, rank=8))  # fmt: skip
    return job, artifacts.local_path(uri)


@pytest.fixture
def there(celora, served, published, monkeypatch):
    """Runs a command on a server of this home."""
    monkeypatch.setenv("CELORA_API_KEY", keys.create_key("default").key)
    return lambda *words: celora(*words, "--server", served)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_and_the_lines_are_those_of_here(celora, there, published, tmp_path):
    here, sent = (
        celora("pull", published[0], "here", "--json").json(),
        there("pull", "model-x", "sent", "--json").json(),
    )
    assert content(tmp_path / "sent") == content(tmp_path / "here")
    assert sent["files"] == here["files"]
    assert [line.replace("/sent", "/here") for line in sent["python"]] == here["python"]
    assert there("pull", "model-x").stdout.splitlines()[0] == str(tmp_path / "model-x")


def test_a_folder_that_holds_something_stays(there, published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    result = there("pull", published[0], "mine")
    assert (result.exit_code, "is not empty" in result.stderr) == (64, True)
    assert list(content(tmp_path / "mine")) == ["letter"]


def test_a_damaged_file_of_the_server_leaves_no_folder(there, published, tmp_path):
    (published[1] / "deep" / "card.md").write_text("cord")
    result = there("pull", published[0], "mine")
    assert (result.exit_code, "another content" in result.stderr) == (74, True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".mine", "mine"))] == []
