"""Artifacts on a local root and on an object store's interface."""

import errno
import hashlib
import subprocess
import sys
import threading
from contextlib import suppress

import fsspec
import pytest

from celora.errors import DataError, DiskFullError, LimitError, SettingsError, StorageError, UnavailableError
from celora.storage import artifacts as module
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest


@pytest.fixture(params=["file", "plain", "memory"])
def artifacts(request, tmp_path):
    if request.param == "memory":
        yield Artifacts("memory://bucket/celora")
        fsspec.filesystem("memory").rm("/", recursive=True)
    else:
        yield Artifacts(("file://" if request.param == "file" else "") + str(tmp_path / "root"))


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "work" / "adapter")


def make(path, weights=b"weights" * 1000):
    (path / "deep").mkdir(parents=True)
    (path / "adapter.safetensors").write_bytes(weights)
    (path / "deep" / "config.json").write_text('{"r": 16}')
    write_manifest(path, step=3)
    return path


def test_a_folder_comes_back_as_it_was(artifacts, folder, tmp_path):
    uri = artifacts.uri("jobs", "j", "attempt-1", "adapter")
    assert not artifacts.exists(uri)
    artifacts.put_folder(folder, uri)
    assert artifacts.committed(uri)
    assert artifacts.list_files(uri) == ["adapter.safetensors", "deep/config.json", "manifest.json"]
    counted = []
    manifest = artifacts.get_folder(uri, tmp_path / "back", on_bytes=counted.append)
    assert manifest["step"] == 3
    assert sum(counted) == 7000 + 9
    assert (tmp_path / "back" / "deep" / "config.json").read_text() == '{"r": 16}'
    assert artifacts.size_bytes(uri) == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert artifacts.read_json(f"{uri}/deep/config.json") == {"r": 16}


def test_the_names_below_a_folder_are_told_one_level_deep(artifacts, folder):
    artifacts.put_folder(folder, artifacts.uri("jobs", "j", "attempt-1", "adapter"))
    artifacts.put_folder(folder, artifacts.uri("jobs", "j", "attempt-2", "adapter"))
    assert artifacts.names(artifacts.uri("jobs", "j")) == ["attempt-1", "attempt-2"]
    assert artifacts.names(artifacts.uri("jobs", "j", "attempt-1", "adapter")) == [
        "adapter.safetensors", "deep", "manifest.json",
    ]  # fmt: skip
    assert artifacts.names(artifacts.uri("nobody")) == []


def test_a_folder_put_again_replaces_the_one_before(artifacts, folder, tmp_path):
    uri = artifacts.uri("a")
    artifacts.put_folder(folder, uri)
    other = tmp_path / "other"
    other.mkdir()
    (other / "new.txt").write_text("new")
    write_manifest(other)
    artifacts.put_folder(other, uri)
    assert artifacts.list_files(uri) == ["manifest.json", "new.txt"]


def test_a_folder_that_is_not_what_its_manifest_says_is_not_put(artifacts, folder):
    (folder / "adapter.safetensors").write_bytes(b"other")
    with pytest.raises(StorageError, match=r"adapter\.safetensors"):
        artifacts.put_folder(folder, artifacts.uri("a"))
    assert not artifacts.exists(artifacts.uri("a"))


def test_a_folder_without_its_manifest_was_never_finished(artifacts, folder, tmp_path):
    uri = artifacts.uri("a")
    artifacts.put_folder(folder, uri)
    artifacts._files.rm_file(f"{uri}/manifest.json")
    assert not artifacts.committed(uri)
    with pytest.raises(StorageError, match="never finished"):
        artifacts.get_folder(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("change", ["cut", "flipped", "missing"])
def test_what_was_changed_at_rest_is_refused(artifacts, folder, tmp_path, change):
    uri = artifacts.uri("a")
    artifacts.put_folder(folder, uri)
    target = f"{uri}/adapter.safetensors"
    if change == "missing":
        artifacts._files.rm_file(target)
    else:
        content = artifacts.read_bytes(target)
        artifacts._files.pipe_file(target, content[:-1] if change == "cut" else b"X" + content[1:])
    with pytest.raises(StorageError, match=r"adapter\.safetensors"):
        artifacts.get_folder(uri, tmp_path / "back")


def test_on_an_object_store_the_manifest_is_the_last_to_come_and_the_first_to_go(folder, monkeypatch):
    artifacts, order = Artifacts("memory://bucket/order"), []
    files, uri = type(artifacts._files), artifacts.uri("a")
    for verb in ("put_file", "rm_file", "rm"):
        plain = getattr(files, verb)

        def noted(self, *names, verb=verb, plain=plain, **options):
            order.append((verb, names[-1].rsplit("/", 1)[-1]))
            return plain(self, *names, **options)

        monkeypatch.setattr(files, verb, noted)
    put = [("put_file", name) for name in ("adapter.safetensors", "config.json", "manifest.json")]
    artifacts.put_folder(folder, uri)
    assert [step for step in order if step[0] == "put_file"] == put
    order.clear()
    artifacts.put_folder(folder, uri)
    assert order[0] == ("rm_file", "manifest.json")
    assert order[-3:] == put


@pytest.mark.slow
def test_a_reader_beside_a_writer_gets_one_version_or_an_error(tmp_path):
    artifacts = Artifacts(f"file://{tmp_path}/root")
    uri, versions = artifacts.uri("a"), [make(tmp_path / str(n), bytes([n]) * 50_000) for n in range(2)]
    artifacts.put_folder(versions[0], uri)
    stop, whole = threading.Event(), []

    def read():
        while not stop.is_set():
            with suppress(StorageError):
                artifacts.get_folder(uri, tmp_path / "copy")
                whole.append(len(set((tmp_path / "copy" / "adapter.safetensors").read_bytes())) == 1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        artifacts.put_folder(versions[number % 2], uri)
    stop.set()
    reader.join(30)
    artifacts.get_folder(uri, tmp_path / "copy")
    assert all(whole)


def test_nothing_is_left_beside_a_folder_that_could_not_be_copied(tmp_path, folder, monkeypatch):
    artifacts = Artifacts(f"file://{tmp_path}/root")
    artifacts.put_folder(folder, artifacts.uri("a"))

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(
        DiskFullError, match=rf"no space left at {tmp_path}/root/a: 0\.0 MiB needed, .* MiB free"
    ) as told:
        artifacts.put_folder(folder, artifacts.uri("a"))
    assert "CELORA_ARTIFACT_ROOT" in told.value.hint
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["a"]
    monkeypatch.undo()
    artifacts.get_folder(artifacts.uri("a"), tmp_path / "back")


def test_one_file_goes_and_comes(artifacts, tmp_path):
    (tmp_path / "log.txt").write_text("line")
    artifacts.put_file(tmp_path / "log.txt", artifacts.uri("logs", "1.log"))
    artifacts.get_file(artifacts.uri("logs", "1.log"), tmp_path / "new" / "back.txt")
    assert (tmp_path / "new" / "back.txt").read_text() == "line"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["back.txt"]


def test_what_is_not_there_is_told(artifacts, tmp_path):
    uri = artifacts.uri("nothing")
    for ask in (lambda: artifacts.read_bytes(uri), lambda: artifacts.get_file(uri, tmp_path / "x")):
        with pytest.raises(StorageError, match="is not there"):
            ask()
    assert artifacts.list_files(uri) == []
    assert not (tmp_path / "x").exists()
    artifacts.remove(uri)


def test_what_is_removed_is_gone(artifacts, folder):
    artifacts.put_folder(folder, artifacts.uri("a"))
    artifacts.remove(artifacts.uri("a"))
    assert not artifacts.exists(artifacts.uri("a"))
    artifacts.put_file(folder / "manifest.json", artifacts.uri("b.json"))
    artifacts.remove(artifacts.uri("b.json"))
    assert not artifacts.exists(artifacts.uri("b.json"))


def test_no_json_is_told(artifacts, tmp_path):
    (tmp_path / "x").write_text("{")
    artifacts.put_file(tmp_path / "x", artifacts.uri("x"))
    with pytest.raises(StorageError, match="is no JSON"):
        artifacts.read_json(artifacts.uri("x"))


def test_a_dataset_is_named_by_its_content(artifacts, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'{"a": 1}\n' * 200_000)
    digest, uri = artifacts.import_dataset(rows)
    assert digest == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert uri == artifacts.uri("datasets", digest, "data.jsonl")
    assert artifacts.read_bytes(uri) == rows.read_bytes()
    (tmp_path / "same.jsonl").write_bytes(rows.read_bytes())
    assert artifacts.import_dataset(tmp_path / "same.jsonl", rows.stat().st_size) == (digest, uri)
    with pytest.raises(LimitError, match="is larger than"):
        artifacts.import_dataset(rows, rows.stat().st_size - 1)
    assert artifacts.list_files(artifacts.uri("datasets")) == [f"{digest}/data.jsonl"]


def test_a_dataset_that_cannot_be_read_is_told_and_leaves_nothing(artifacts, tmp_path):
    for path, said in ((tmp_path / "nothing.jsonl", "No such file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=said):
            artifacts.import_dataset(path)
    assert artifacts.list_files(artifacts.uri("datasets")) == []


def test_no_uri_leads_out_of_the_root(artifacts, tmp_path, folder):
    outside = [
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://other/bucket",
        artifacts.root,
        artifacts.root + "-other/a",
        artifacts.root + "/../a",
        artifacts.root + "/jobs/../../a",
    ]
    for uri in outside:
        for ask in (
            artifacts.local_path,
            artifacts.exists,
            artifacts.read_bytes,
            artifacts.remove,
            lambda uri: artifacts.get_file(uri, tmp_path / "x"),
            lambda uri: artifacts.put_file(folder / "manifest.json", uri),
            lambda uri: artifacts.put_folder(folder, uri),
        ):
            with pytest.raises(StorageError, match="does not lie below"):
                ask(uri)
    with pytest.raises(StorageError, match="does not lie below"):
        artifacts.uri("jobs", "..", "..", "a")


def test_a_manifest_cannot_name_files_outside(artifacts, folder, tmp_path):
    (folder / "manifest.json").write_text(
        '{"files": [{"name": "../../../../../../etc/passwd", "size_bytes": 1, "sha256": ""}]}'
    )
    for name in ("manifest.json", "adapter.safetensors"):
        artifacts.put_file(folder / name, artifacts.uri("a", name))
    with pytest.raises(StorageError, match="does not lie below"):
        artifacts.get_folder(artifacts.uri("a"), tmp_path / "back")


def test_the_local_path_spares_a_copy(tmp_path):
    local = Artifacts(f"file://{tmp_path}/root")
    assert local.local_path(local.uri("a", "b")) == tmp_path / "root" / "a" / "b"
    assert Artifacts("memory://root").local_path("memory://root/a") is None


def test_an_unknown_protocol_is_refused():
    with pytest.raises(SettingsError, match="CELORA_ARTIFACT_ROOT"):
        Artifacts("nonsense://bucket")


def test_a_missing_part_is_told_with_the_command(monkeypatch):
    def missing(protocol):
        raise ImportError(f"Install {protocol}fs")

    monkeypatch.setattr(module.fsspec, "filesystem", missing)
    with pytest.raises(UnavailableError, match=r'pip install "celora\[s3\]"'):
        Artifacts("s3://bucket/prefix")


def test_a_root_that_cannot_be_written_to_is_told(tmp_path, folder):
    (tmp_path / "root").write_text("a file, no folder")
    artifacts = Artifacts(f"file://{tmp_path}/root")
    with pytest.raises(StorageError, match="can't be reached"):
        artifacts.put_folder(folder, artifacts.uri("a"))


HEAVY = "import sys, celora.storage.artifacts, celora.storage.paths; print(*sys.modules)"


def test_importing_the_room_loads_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert not set(ran.stdout.split()) & {"torch", "transformers", "datasets", "tokenizers", "sqlalchemy", "s3fs"}
