"""Judgements about a machine: folders, disks, limits."""

import pytest

from celora.doctor import machine
from celora.settings.gpus import GIB
from celora.settings.settings import load_settings


@pytest.mark.parametrize(("free", "level"), [(21, "ok"), (19, "warn"), (4, "fail")])
def test_a_disk_is_judged_by_what_is_free(free, level):
    assert machine.room("the artifacts", free * GIB, 100 * GIB, 5 * GIB).level == level


@pytest.mark.parametrize(("limit", "level"), [(256, "warn"), (1024, "ok"), (-1, "ok")])
def test_a_limit_of_open_files(limit, level):
    assert machine.open_files(limit).level == level


@pytest.mark.parametrize(
    ("path", "level", "words"),
    [
        ("", "ok", "can be written"),
        ("new/deeper", "ok", "is made at the first use"),
        ("file", "fail", "is no folder"),
        ("file/below", "fail", "is no folder"),
        ("dangling/below", "fail", "is no folder"),
    ],
)
def test_a_home_is_judged_without_making_it(tmp_path, path, level, words):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    found = machine.home(tmp_path / path)
    assert (found.level, words in found.found, bool(found.fix)) == (level, True, level == "fail")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("mode", "share", "level"),
    [(0o700, False, "ok"), (0o750, False, "warn"), (0o750, True, "ok"), (0o755, True, "warn")],
)
def test_a_home_that_admits_others_is_told_with_the_command(home, mode, share, level):
    home.chmod(mode)
    found = machine.permissions(load_settings(share_files=share))
    assert found.level == level
    assert (f"chmod {0o750 if share else 0o700:o} {home}" in found.fix) is (level == "warn")
    home.chmod(0o700)


def test_places_on_one_disk_are_one_finding(home):
    (found,) = machine.disks(load_settings(), 0)
    assert (found.level, "for CELORA_HOME, the base models, the artifacts" in found.found) == ("ok", True)


def test_remote_artifacts_take_no_local_disk(home):
    (found,) = machine.disks(load_settings(artifact_root="memory://artifacts"), 0)
    assert "artifacts" not in found.found


def test_artifacts_are_written_read_and_removed(home):
    (found,) = machine.storage(load_settings())
    assert (found.level, "is made at the first use" in found.found) == ("ok", True)
    (home / "artifacts").mkdir()
    (found,) = machine.storage(load_settings())
    assert (found.level, "takes a file, gives it back and removes it" in found.found) == ("ok", True)
    assert list((home / "artifacts").iterdir()) == []


def test_artifacts_below_a_file_cannot_be_written(home):
    (home / "artifacts").touch()
    (found,) = machine.storage(load_settings())
    assert (found.level, str(home / "artifacts") in found.found) == ("fail", True)
    assert "CELORA_ARTIFACT_ROOT" in found.fix


def test_shared_memory_must_be_mounted(tmp_path):
    found = machine.shared_memory(tmp_path / "shm")
    assert (found.level, found.fix) == ("warn", "Mount a tmpfs there.")
