"""A folder that arrives is verified before it has its name, and a bad one leaves nothing."""

import errno

import pytest

from celora.errors import DiskFullError, StorageError
from celora.storage.manifest import write_manifest
from celora.storage.received_folder import receive_folder


def receive(target, fill):
    with receive_folder(target, what="the adapter") as folder:
        fill(folder)


def good(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a").write_text("a")
    write_manifest(folder)


def test_a_whole_folder_gets_its_name_also_in_the_place_of_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        receive(tmp_path / name, good)
        assert (tmp_path / name / "deep" / "a").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


def unnamed(folder):
    good(folder)
    (folder / "more").write_text("m")


def changed(folder):
    good(folder)
    (folder / "deep" / "a").write_text("b")


@pytest.mark.parametrize(("fill", "words"), [(unnamed, "does not name: more"), (changed, "another content"),
                                             (lambda _: None, "no readable manifest")])  # fmt: skip
def test_a_folder_that_differs_from_its_manifest_leaves_nothing(tmp_path, fill, words):
    with pytest.raises(StorageError, match=words):
        receive(tmp_path / "new", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_place(tmp_path):
    def fill(_):
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(DiskFullError, match="the adapter"):
        receive(tmp_path / "new", fill)
    assert list(tmp_path.iterdir()) == []
