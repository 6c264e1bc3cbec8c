"""An artifact root and a dataset on S3: the real s3fs against a server of the real protocol (moto's), over HTTP."""

import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from celora.errors import DataError, StorageError
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import MANIFEST, write_manifest
from celora.tuning.files.source_files import fetching
from celora.tuning.protocol import PrepareRequest, SourceAccess
from celora.tuning.recipe import Recipe

pytestmark = pytest.mark.slow
pytest.importorskip("moto")
pytest.importorskip("s3fs")

ROOT = "s3://celora-test/root"
ROWS = b'{"prompt": "2+2?", "completion": "4"}\n'


@pytest.fixture(scope="module")
def server():
    """The address of an empty S3."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        address = next(word for line in process.stderr for word in line.split() if word.startswith("http://127"))
        drain = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would stop it
        drain.start()
        yield address
        process.kill()


@pytest.fixture
def s3(server, monkeypatch):
    """An empty bucket; every part of celora finds it as on AWS, through the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir("s3://celora-test")
    yield files
    files.rm("s3://celora-test", recursive=True)
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "adapter", b"weights" * 1000)


def make(path, weights):
    (path / "deep").mkdir(parents=True)
    (path / "adapter.safetensors").write_bytes(weights)
    (path / "deep" / "config.json").write_text('{"r": 16}')
    write_manifest(path, step=3)
    return path


def test_a_folder_goes_up_and_comes_back_verified(s3, folder, tmp_path):
    artifacts = Artifacts(ROOT)
    uri = artifacts.uri("jobs", "j", "adapter")
    artifacts.put_folder(folder, uri)
    assert artifacts.committed(uri)
    assert artifacts.list_files(uri) == ["adapter.safetensors", "deep/config.json", MANIFEST]
    assert artifacts.names(artifacts.uri("jobs", "j")) == ["adapter"]
    assert artifacts.get_folder(uri, tmp_path / "back")["step"] == 3
    assert (tmp_path / "back" / "adapter.safetensors").read_bytes() == b"weights" * 1000


def test_a_folder_without_its_manifest_was_never_finished(s3, folder, tmp_path):
    artifacts = Artifacts(ROOT)
    uri = artifacts.uri("jobs", "j", "adapter")
    artifacts.put_folder(folder, uri)
    s3.rm_file(f"{uri}/{MANIFEST}")
    assert not Artifacts(ROOT).committed(uri)
    with pytest.raises(StorageError, match="never finished"):
        Artifacts(ROOT).get_folder(uri, tmp_path / "back")


def test_a_file_that_is_not_what_the_manifest_says_is_refused(s3, folder, tmp_path):
    artifacts = Artifacts(ROOT)
    uri = artifacts.uri("jobs", "j", "adapter")
    artifacts.put_folder(folder, uri)
    s3.pipe_file(f"{uri}/adapter.safetensors", b"weightz" * 1000)
    with pytest.raises(StorageError):
        artifacts.get_folder(uri, tmp_path / "back")


def test_a_folder_put_again_leaves_nothing_of_the_one_before(s3, folder, tmp_path):
    artifacts = Artifacts(ROOT)
    uri = artifacts.uri("jobs", "j", "adapter")
    (folder / "old.bin").write_bytes(b"old")
    write_manifest(folder, step=1)
    artifacts.put_folder(folder, uri)
    artifacts.put_folder(make(tmp_path / "second", b"new"), uri)
    assert artifacts.list_files(uri) == ["adapter.safetensors", "deep/config.json", MANIFEST]
    artifacts.remove(uri)
    assert not artifacts.exists(uri)


def test_a_dataset_of_many_parts_is_taken_by_its_content_and_is_one_copy(s3, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_bytes(ROWS * 300_000)  # 11 MB: several parts of an upload
    artifacts = Artifacts(ROOT)
    digest, uri = artifacts.import_dataset(data)
    assert artifacts.import_dataset(data) == (digest, uri)
    assert artifacts.size_bytes(uri) == data.stat().st_size
    assert artifacts.names(artifacts.uri("datasets")) == [digest]


def test_a_dataset_is_read_from_an_allowed_bucket_and_from_no_other(s3, tmp_path):
    s3.pipe_file("s3://celora-test/x.jsonl", ROWS)

    def read(key, bucket="celora-test"):
        request = PrepareRequest(
            job="job", attempt=1, cache_dir="", base_model="base", recipe=Recipe(), seed=1,
            out_dir=str(tmp_path / "out"),
            dataset=f"s3://celora-test/{key}",
            sources=SourceAccess(allowed_schemes=["s3"], allowed_hosts=[bucket]),
        )  # fmt: skip
        return fetching(lambda placed, _emit: Path(placed.dataset).read_bytes())(request, lambda *_, **__: None)

    assert read("x.jsonl") == ROWS
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="bucket celora-test is not allowed"):
        read("x.jsonl", bucket="other")
    with pytest.raises(DataError, match="is not there"):
        read("y.jsonl")
