"""Files that arrive in parts: written once, named by their content, gone where they were given up."""

import hashlib

import pytest

from celora.errors import StorageError
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import PREFIX, IncomingFile, remove_abandoned

PARTS = [b"one\n", b"two\n" * 1000, b"three\n"]
CONTENT = b"".join(PARTS)


@pytest.fixture(params=["file", "memory"])
def artifacts(request, tmp_path):
    return Artifacts(f"file://{tmp_path}/artifacts" if request.param == "file" else f"memory://{tmp_path.name}")


def receive(artifacts, parts=PARTS):
    with IncomingFile(artifacts) as incoming:
        for part in parts:
            incoming.write(part)
        return incoming.commit(".jsonl")


def left_over(artifacts):
    return [name for name in artifacts.names(artifacts.uri("datasets")) if name.startswith(PREFIX)]


def test_a_file_has_its_place_by_its_content(artifacts):
    stored = receive(artifacts)
    assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert stored.size_bytes == len(CONTENT)
    assert stored.uri == artifacts.uri("datasets", stored.sha256, "data.jsonl")
    assert b"".join(artifacts.read_parts(stored.uri)) == CONTENT
    assert left_over(artifacts) == []


def test_equal_contents_are_stored_once(artifacts):
    assert receive(artifacts) == receive(artifacts, [CONTENT])
    assert artifacts.names(artifacts.uri("datasets")) == [receive(artifacts).sha256]


def test_a_file_that_is_given_up_leaves_nothing(artifacts):
    incoming = IncomingFile(artifacts)
    incoming.write(b"half")
    incoming.abandon()
    assert artifacts.names(artifacts.uri("datasets")) == []


def test_an_error_in_the_block_leaves_nothing(artifacts):
    def fail():
        with IncomingFile(artifacts) as incoming:
            incoming.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert left_over(artifacts) == []


def test_what_a_killed_process_left_is_removed_by_age(artifacts):
    IncomingFile(artifacts).write(b"half")
    assert remove_abandoned(artifacts, older_than_s=60) == 0
    assert remove_abandoned(artifacts, older_than_s=-60) == 1
    assert left_over(artifacts) == []


def test_a_place_that_cannot_be_written_is_an_error_of_the_storage(tmp_path):
    (tmp_path / "artifacts").write_text("no folder")
    with pytest.raises(StorageError, match="artifacts"):
        IncomingFile(Artifacts(f"file://{tmp_path}/artifacts")).write(b"x")
