"""An artifact root and a dataset on Google Cloud Storage: the real gcsfs against a server of its protocol."""

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from celora.errors import DataError
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import MANIFEST, write_manifest
from celora.tuning.files.source_files import fetching
from celora.tuning.protocol import PrepareRequest, SourceAccess
from celora.tuning.recipe import Recipe

pytestmark = pytest.mark.slow
pytest.importorskip("gcp_storage_emulator")
pytest.importorskip("gcsfs")

ROWS = b'{"prompt": "2+2?", "completion": "4"}\n'
SERVER = """
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
input()
"""


@pytest.fixture(scope="module")
def server():
    """The address of an empty GCS."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture
def gcs(server, monkeypatch):
    """An empty bucket; every part of celora finds it as in the cloud, through the environment."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nobody asks whether this is a machine of that cloud
    fsspec.filesystem("gs").clear_instance_cache()
    files = fsspec.filesystem("gs", use_listings_cache=False)
    files.mkdir("gs://celora-test")
    yield files
    files.rm("gs://celora-test", recursive=True)
    fsspec.filesystem("gs").clear_instance_cache()


def test_a_dataset_is_read_from_an_allowed_bucket_and_from_no_other(gcs, tmp_path):
    gcs.pipe_file("gs://celora-test/x.jsonl", ROWS)

    def read(key, bucket="celora-test"):
        request = PrepareRequest(
            job="job", attempt=1, cache_dir="", base_model="base", recipe=Recipe(), seed=1,
            out_dir=str(tmp_path / "out"),
            dataset=f"gs://celora-test/{key}",
            sources=SourceAccess(allowed_schemes=["gs"], allowed_hosts=[bucket]),
        )  # fmt: skip
        return fetching(lambda placed, _emit: Path(placed.dataset).read_bytes())(request, lambda *_, **__: None)

    assert read("x.jsonl") == ROWS
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="bucket celora-test is not allowed"):
        read("x.jsonl", bucket="other")
    with pytest.raises(DataError, match="is not there"):
        read("y.jsonl")


def test_a_folder_goes_up_and_comes_back_verified(gcs, tmp_path):
    folder = tmp_path / "adapter"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"weights" * 1000)
    (folder / "deep" / "config.json").write_text('{"r": 16}')
    write_manifest(folder, step=3)
    artifacts = Artifacts("gs://celora-test/root")
    uri = artifacts.uri("jobs", "j", "adapter")
    artifacts.put_folder(folder, uri)
    assert Artifacts("gs://celora-test/root").committed(uri)
    assert artifacts.list_files(uri) == ["adapter.safetensors", "deep/config.json", MANIFEST]
    assert artifacts.get_folder(uri, tmp_path / "back")["step"] == 3
    assert (tmp_path / "back" / "adapter.safetensors").read_bytes() == b"weights" * 1000
    artifacts.remove(uri)
    assert not artifacts.exists(uri)
