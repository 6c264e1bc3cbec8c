"""A store that fails, is slow, or hangs: a filesystem of its own protocol, reached through the real fsspec."""

import errno
import threading

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from celora.errors import DiskFullError, StorageError
from celora.storage import retries
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest


class FlakyFileSystem(MemoryFileSystem):
    """Memory that fails as often as ``faults`` says, for each call of its name."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    faults, calls, hang = {}, [], threading.Event()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _may_fail(self, name):
        self.calls.append(name)
        left = self.faults.get(name, [])
        if left:
            fault = left.pop(0)
            if fault == "hang":
                self.hang.wait(30)
            elif fault is not None:
                raise fault

    def put_file(self, *args, **options):
        self._may_fail("put_file")
        return super().put_file(*args, **options)

    def get_file(self, *args, **options):
        self._may_fail("get_file")
        return super().get_file(*args, **options)

    def exists(self, *args, **options):
        self._may_fail("exists")
        return super().exists(*args, **options)

    def ls(self, *args, **options):
        self._may_fail("ls")
        return super().ls(*args, **options)


@pytest.fixture
def store(monkeypatch):
    """The failing store; waits between tries are short."""
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.store.clear()
    FlakyFileSystem.faults, FlakyFileSystem.calls, FlakyFileSystem.hang = {}, [], threading.Event()
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.02)
    yield FlakyFileSystem
    FlakyFileSystem.hang.set()


@pytest.fixture
def artifacts(store):
    return Artifacts("flaky://bucket/celora", patience_s=5.0)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "weights").write_bytes(b"w" * 1000)
    write_manifest(made)
    return made


def away(times):
    return [ConnectionError("503 slow down") for _ in range(times)]


def test_an_upload_and_a_download_outlast_a_store_that_fails_for_a_while(store, artifacts, folder, tmp_path):
    store.faults = {"put_file": away(3), "get_file": [None, TimeoutError("read timed out")], "exists": away(1)}
    uri = artifacts.uri("a")
    artifacts.put_folder(folder, uri)
    artifacts.get_folder(uri, tmp_path / "back")
    assert (tmp_path / "back" / "weights").read_bytes() == b"w" * 1000
    assert store.calls.count("put_file") == 5


def test_a_store_that_stays_away_is_a_storage_error_after_the_deadline(store, folder):
    artifacts = Artifacts("flaky://bucket/celora", patience_s=0.2)
    store.faults = {"put_file": away(1000)}
    with pytest.raises(StorageError, match="503 slow down") as caught:
        artifacts.put_folder(folder, artifacts.uri("a"))
    assert caught.value.code == "storage"
    assert store.calls.count("put_file") >= 1
    assert not artifacts.committed(artifacts.uri("a"))


def test_a_store_that_hangs_is_given_up_at_the_deadline(store, folder):
    artifacts = Artifacts("flaky://bucket/celora", patience_s=0.2)
    store.faults = {"put_file": ["hang"]}
    with pytest.raises(StorageError, match="did not answer in time"):
        artifacts.put_folder(folder, artifacts.uri("a"))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (PermissionError("403"), StorageError),
        (OSError(errno.ENOSPC, "quota"), DiskFullError),
        (TypeError("x"), StorageError),
    ],
    ids=["forbidden", "full", "programming"],
)
def test_what_another_try_cannot_change_is_told_at_once(store, artifacts, folder, fault, error):
    store.faults = {"put_file": [fault]}
    with pytest.raises(error):
        artifacts.put_folder(folder, artifacts.uri("a"))
    assert store.calls.count("put_file") == 1


def test_what_is_not_there_is_told_at_once(store, artifacts, tmp_path):
    with pytest.raises(StorageError, match="is not there"):
        artifacts.get_file(artifacts.uri("none"), tmp_path / "x")
    assert artifacts.names(artifacts.uri("none")) == []
    assert store.calls.count("ls") <= 2


def test_a_large_transfer_has_more_time():
    one = retries.Patience(10)
    assert one.deadline(100 * retries.SLOWEST_BYTES_PER_S) - one.deadline() == pytest.approx(100, abs=1)
