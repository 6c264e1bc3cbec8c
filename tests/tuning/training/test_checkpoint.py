import os
import random
import signal
import subprocess
import sys
import time

import pytest

from celora.errors import DiskFullError, SettingsError, StorageError
from celora.storage.manifest import MANIFEST, verify_manifest
from celora.tuning.recipe import Recipe
from celora.tuning.training import checkpoint, resume

SETTINGS = {"seed": 1, "recipe": {"rank": 16, "schedule": "cosine"}, "base": {"name": "b", "revision": "r"}}


def weights(folder):
    (folder / "adapter.bin").write_text("weights")


def write(root, step, *, settings=None, fill=weights, need_bytes=0):
    return checkpoint.write(
        root,
        step,
        attempt=1,
        settings=settings or SETTINGS,
        versions={"torch": "1"},
        fill=fill,
        need_bytes=need_bytes,
    )


def test_a_checkpoint_holds_its_files_and_a_manifest_with_step_attempt_settings_and_versions(tmp_path):
    path, size = write(tmp_path, 5)
    manifest = verify_manifest(path)
    checkpoint.require_same_run(path, manifest, SETTINGS)
    assert path == tmp_path / "step-5"
    assert size == len("weights")
    assert (manifest["step"], manifest["attempt"], manifest["versions"]) == (5, 1, {"torch": "1"})
    assert [entry["name"] for entry in manifest["files"]] == ["adapter.bin"]


def test_a_checkpoint_of_a_version_without_a_field_is_resumed_if_the_field_has_its_default(tmp_path):
    path, _ = write(tmp_path, 5)
    manifest, defaults = verify_manifest(path), {"turns": "whole", "rank": 8, "kept_out": 1}
    newer = {**SETTINGS, "recipe": {**SETTINGS["recipe"], "turns": "whole"}}
    checkpoint.require_same_run(path, manifest, newer, defaults)
    with pytest.raises(SettingsError, match=r"recipe.turns was 'whole' and is 'last'\."):
        checkpoint.require_same_run(path, manifest, {**newer, "recipe": {**newer["recipe"], "turns": "last"}}, defaults)


def test_every_field_of_the_recipe_that_a_run_depends_on_has_a_default_for_older_checkpoints():
    fields = set(Recipe.model_fields) - resume.VOLATILE
    assert set(resume.DEFAULTS) == fields


def test_a_save_that_fails_leaves_no_trace_and_the_older_checkpoint_whole(tmp_path):
    def broken(folder):
        (folder / "adapter.bin").write_text("half")
        raise RuntimeError("the pencil broke")

    older, _ = write(tmp_path, 5)
    with pytest.raises(RuntimeError, match="pencil"):
        write(tmp_path, 6, fill=broken)
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]
    assert checkpoint.committed(tmp_path) == [(5, older)]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no manifest"])
def test_a_damaged_checkpoint_does_not_verify_and_the_one_before_does(tmp_path, damage):
    older, _ = write(tmp_path, 5)
    newer, _ = write(tmp_path, 10)
    file = newer / "adapter.bin"
    match damage:
        case "cut":
            file.write_text("weigh")
        case "changed":
            file.write_text("weightz")
        case "missing":
            file.unlink()
        case _:
            (newer / MANIFEST).write_text("{")
    with pytest.raises(StorageError):
        verify_manifest(newer)
    assert verify_manifest(older)["step"] == 5


def test_what_was_only_staged_does_not_count(tmp_path):
    (tmp_path / ".tmp-1-7").mkdir()
    (tmp_path / "step-8").mkdir()
    assert checkpoint.committed(tmp_path) == []
    assert checkpoint.committed(tmp_path / "nowhere") == []


def test_another_run_is_refused_with_each_difference(tmp_path):
    path, _ = write(tmp_path, 5)
    other = {**SETTINGS, "seed": 2, "recipe": {"rank": 8, "schedule": "cosine"}}
    with pytest.raises(SettingsError) as caught:
        checkpoint.require_same_run(path, verify_manifest(path), other)
    assert "recipe.rank was 16 and is 8" in caught.value.message
    assert "seed was 1 and is 2" in caught.value.message
    assert "schedule" not in caught.value.message


def test_the_hash_does_not_depend_on_the_order_of_the_settings():
    turned = dict(reversed(SETTINGS.items()))
    assert checkpoint.settings_sha256(turned) == checkpoint.settings_sha256(SETTINGS)
    assert checkpoint.settings_sha256({**SETTINGS, "seed": 2}) != checkpoint.settings_sha256(SETTINGS)


@pytest.mark.parametrize(
    ("keep", "pinned", "left"),
    [(2, None, {20, 30}), (1, None, {30}), (0, None, {30}), (1, 10, {10, 30})],
)
def test_pruning_keeps_the_newest_and_the_one_that_was_resumed_from(tmp_path, keep, pinned, left):
    for step in (5, 10, 20, 30):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep, tmp_path / f"step-{pinned}" if pinned else None)
    assert {step for step, _ in checkpoint.committed(tmp_path)} == left


def test_too_little_space_is_refused_before_a_byte_is_written(tmp_path):
    written = []
    with pytest.raises(DiskFullError) as caught:
        write(tmp_path, 5, fill=written.append, need_bytes=2**60)
    assert written == []
    assert str(tmp_path) in caught.value.message
    assert "1099511627776.0 MiB needed" in caught.value.message


def test_a_full_device_is_told_with_the_path(tmp_path):
    def onto_a_full_device(_folder):
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            full.write(b"weights")

    with pytest.raises(DiskFullError, match=r"no space left at .*\(.*No space left on device\)") as caught:
        write(tmp_path, 5, fill=onto_a_full_device)
    assert str(tmp_path) in caught.value.message
    assert list(tmp_path.iterdir()) == []


SAVE_ALL_THE_TIME = """
import sys
from pathlib import Path
from celora.tuning.recipe import Recipe
from celora.tuning.training import checkpoint, resume

root, first = Path(sys.argv[1]), int(sys.argv[2])
for step in range(first, first + 10_000):
    def fill(folder):
        for part in range(4):
            (folder / f"part-{part}").write_bytes(bytes(200_000))
    checkpoint.write(root, step, attempt=1, settings={}, versions={}, fill=fill)
    checkpoint.prune(root, 2)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_kills_in_the_middle_of_saving_never_cost_more_than_the_checkpoint_that_was_being_written(tmp_path):
    rng, last = random.Random(3), 0  # noqa: S311  (moments of a kill, no secrets)
    for _ in range(20):
        command = [sys.executable, "-c", SAVE_ALL_THE_TIME, str(tmp_path), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            reported = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 0.05))
            os.kill(process.pid, signal.SIGKILL)
            reported = max([reported, *map(int, process.stdout.read().split())])
        last, newest = checkpoint.committed(tmp_path)[0]
        verify_manifest(newest)
        assert last >= reported
