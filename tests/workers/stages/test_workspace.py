"""An attempt's files lie in its scratch and, uploaded with a manifest, below the artifact root."""

import json

import pytest

from celora.settings.settings import get_settings
from celora.storage.manifest import MANIFEST
from celora.workers.stages.workspace import Workspace


@pytest.fixture(params=["file", "memory"])
def workspace(request, home, monkeypatch):
    """A workspace on a local root, and on an object store."""
    if request.param == "memory":
        monkeypatch.setenv("CELORA_ARTIFACT_ROOT", f"memory://celora-{home.name}")
        get_settings.cache_clear()
    return Workspace(get_settings(), "j", 2)


def fill(workspace, *names):
    folder = workspace.local(*names)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    return folder


def test_every_attempt_has_folders_of_its_own(workspace):
    assert workspace.scratch == get_settings().scratch / "j" / "attempt-2"
    assert workspace.uri("adapter").endswith("/jobs/j/attempt-2/adapter")


def test_an_uploaded_folder_is_committed_and_can_be_fetched(workspace):
    fill(workspace, "adapter")
    uri = workspace.upload("adapter")
    assert workspace.artifacts.committed(uri)
    fetched = workspace.fetch(uri, "adapter")
    assert (fetched / "weights").read_text() == "w"
    assert (fetched / MANIFEST).exists()


def test_a_path_is_its_own_file_and_an_artifact_is_fetched(workspace, tmp_path):
    plain = tmp_path / "rows.jsonl"
    plain.write_text("{}")
    assert workspace.fetch_file(str(plain), "rows") == plain
    workspace.artifacts.put_file(plain, workspace.uri("rows.jsonl"))
    assert workspace.fetch_file(workspace.uri("rows.jsonl"), "rows").read_text() == "{}"


def test_a_receipt_stays_with_the_attempt(workspace):
    workspace.keep_receipt({"rows": 3, "name": "ü"})
    assert workspace.artifacts.read_json(workspace.uri("receipt.json")) == {"rows": 3, "name": "ü"}
    assert json.loads(workspace.local("receipt.json").read_text(encoding="utf-8"))["rows"] == 3


def test_a_log_is_masked_before_it_is_kept(workspace):
    secret = "hf_" + "a" * 34
    workspace.log("train").write_text(f"token {secret}\n")
    workspace.keep_log("train")
    kept = workspace.artifacts.read_bytes(workspace.log_uri("train")).decode()
    assert kept.startswith("token ")
    assert secret not in kept


def test_clearing_removes_the_scratch_alone(workspace):
    fill(workspace, "adapter")
    uri = workspace.upload("adapter")
    workspace.clear()
    assert not workspace.scratch.exists()
    assert workspace.artifacts.committed(uri)
