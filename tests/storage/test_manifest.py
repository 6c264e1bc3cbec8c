"""A folder's manifest: what it names, every kind of damage, and the commit of a folder by a rename."""

import hashlib
import json

import pytest

from celora.errors import StorageError
from celora.settings import failpoints
from celora.storage.manifest import MANIFEST, commit, file_sha256, files_below, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    (made / "deep").mkdir(parents=True)
    (made / "b.txt").write_bytes(b"bee")
    (made / "deep" / "a.txt").write_bytes(b"")
    (made / "deep" / MANIFEST).write_bytes(b"of another folder")
    return made


def test_every_file_below_is_named_with_size_and_hash(folder):
    manifest = write_manifest(folder, step=3)
    assert manifest["step"] == 3
    assert [(entry["name"], entry["size_bytes"]) for entry in manifest["files"]] == [
        ("b.txt", 3), ("deep/a.txt", 0), (f"deep/{MANIFEST}", 17),
    ]  # fmt: skip
    assert manifest["files"][0]["sha256"] == hashlib.sha256(b"bee").hexdigest() == file_sha256(folder / "b.txt")
    assert verify_manifest(folder) == manifest == json.loads((folder / MANIFEST).read_text())


def test_the_manifest_does_not_name_itself_when_it_is_written_again(folder):
    assert write_manifest(folder)["files"] == write_manifest(folder)["files"]
    assert MANIFEST not in files_below(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "b.txt").write_bytes(b"be"), "b.txt is missing or has another size"),
        (lambda folder: (folder / "b.txt").write_bytes(b"bea"), "b.txt has another content"),
        (lambda folder: (folder / "deep" / "a.txt").unlink(), "deep/a.txt is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "no readable manifest"),
    ],
)
def test_damage_is_told_with_the_file(folder, damage, words):
    write_manifest(folder)
    damage(folder)
    with pytest.raises(StorageError, match=words):
        verify_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"null", b"[]", b"3", b"{}", b'{"files": null}', b'{"files": 3}', b'{"files": [3]}',
     b'{"files": [{"name": "b.txt"}]}', b'{"files": [{"name": 1, "size_bytes": 3, "sha256": ""}]}'],
)  # fmt: skip
def test_a_manifest_that_is_none_was_never_finished(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(StorageError, match=r"no readable manifest .* it was never finished"):
        verify_manifest(folder)


def test_a_commit_replaces_an_older_folder(folder, tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "old.txt").touch()
    commit(folder, final, step=3)
    assert not folder.exists()
    assert verify_manifest(final)["step"] == 3
    assert not (final / "old.txt").exists()


@pytest.mark.parametrize("point", ["commit.staged", "commit.flush", "commit.manifest"])
def test_a_commit_that_fails_leaves_the_older_folder(folder, tmp_path, monkeypatch, point):
    commit(folder, tmp_path / "final", step=1)
    folder.mkdir()
    (folder / "new.txt").touch()
    monkeypatch.setattr(failpoints, "_armed", failpoints.parse(f"{point}:error"))
    with pytest.raises(OSError, match=point):
        commit(folder, tmp_path / "final", step=2)
    assert verify_manifest(tmp_path / "final")["step"] == 1
