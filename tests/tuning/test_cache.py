import errno
import os
import subprocess
import sys
import time

import pytest

from celora.settings.errors import DiskFullError, NotFoundError, UnavailableError
from celora.storage.manifest import write_manifest
from celora.tuning import cache as cache_room
from celora.tuning.cache import cached, is_whole, remove, stored, sweep, used


def test_a_copy_is_made_once_and_found_afterwards(tmp_path):
    made = []

    def make(staged):
        made.append(staged)
        (staged / "model.safetensors").write_bytes(b"weights")
        return {"name": "a"}

    for _ in range(2):
        final = stored(tmp_path / "quantized" / "key", make)
        assert (final / "model.safetensors").read_bytes() == b"weights"
    assert len(made) == 1
    assert not made[0].exists()


def test_a_copy_whose_file_was_cut_is_made_again(tmp_path):
    def make(staged):
        (staged / "model.safetensors").write_bytes(b"weights")
        return {}

    final = stored(tmp_path / "key", make)
    (final / "model.safetensors").write_bytes(b"wei")
    assert not is_whole(final)
    assert (stored(tmp_path / "key", make) / "model.safetensors").read_bytes() == b"weights"


def test_a_failed_making_leaves_nothing_and_what_a_killed_one_left_is_cleared(tmp_path):
    def fail(staged):
        (staged / "half").write_bytes(b"x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stored(tmp_path / "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]
    (tmp_path / ".staged-key").mkdir()
    (tmp_path / ".staged-key" / "left").touch()
    stored(tmp_path / "key", lambda staged: {"left": [path.name for path in staged.iterdir()]})
    assert not (tmp_path / "key" / "left").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_says_where_and_how_much_is_free(tmp_path, error):
    def make(staged):
        raise error

    with pytest.raises(DiskFullError, match=rf"disk of {tmp_path} is full \(\d+\.\d GiB free\)"):
        stored(tmp_path / "key", make)


def test_two_processes_make_a_copy_once(tmp_path):
    script = """
import sys, time
from pathlib import Path
from celora.tuning.cache import stored
def make(staged):
    with Path(sys.argv[1], "made").open("a") as log: log.write("x")
    time.sleep(0.3)
    return {}
stored(Path(sys.argv[1], "key"), make)
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"


def put(folder, **facts):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345678")
    write_manifest(folder, **facts)


@pytest.fixture
def full(tmp_path):
    facts = {"name": "small", "kind": "catalogue", "revision": "sha256:1", "source": "small"}
    put(tmp_path / "converted" / "c1", **facts)
    settings = {"quant_type": "nf4", "compute_dtype": "float32"}
    put(tmp_path / "quantized" / "q1", **facts, settings=settings, unquantized=["model.layers.0.mlp.up_proj"])
    own = {"name": "/models/own", "kind": "folder", "revision": "sha256:2", "source": "/models/own"}
    put(tmp_path / "quantized" / "q2", **own, settings=settings, unquantized=[])
    (tmp_path / "quantized" / "unfinished").mkdir()
    return tmp_path


def test_the_listing_joins_a_base_with_its_copies_and_skips_what_was_never_finished(full):
    own, small = cached(full)
    assert (own.name, own.kind, own.size_bytes, len(own.quantized)) == ("/models/own", "folder", 0, 1)
    assert (small.name, small.path) == ("small", full / "converted" / "c1")
    assert small.size_bytes > 8
    assert small.quantized[0].settings["quant_type"] == "nf4"
    assert small.quantized[0].unquantized == ["model.layers.0.mlp.up_proj"]


def test_an_empty_cache_lists_nothing(tmp_path):
    assert cached(tmp_path / "nowhere") == []


def test_removing_takes_the_base_with_its_copies_and_nothing_else(full):
    small = cached(full)[1]
    freed = remove(full, "small")
    assert freed == small.size_bytes + small.quantized[0].size_bytes
    assert [base.name for base in cached(full)] == ["/models/own"]
    with pytest.raises(NotFoundError, match="holds no base named small; it holds /models/own"):
        remove(full, "small")


def test_a_users_own_folder_is_never_removed(full, tmp_path):
    own = tmp_path / "own"
    put(own, name="x")
    facts = {"name": str(own), "kind": "folder", "revision": "sha256:3", "source": str(own)}
    put(full / "quantized" / "q3", **facts, settings={}, unquantized=[])
    remove(full, str(own))
    assert (own / "model.safetensors").is_file()
    assert not (full / "quantized" / "q3").exists()


def test_a_copy_that_is_being_made_is_not_removed(full):
    with cache_room._locked(full / "converted" / "c1"), pytest.raises(UnavailableError, match="being made"):
        remove(full, "small")


DAY_S = 86400


def age(folder, days):
    os.utime(folder, (time.time() - days * DAY_S,) * 2)


def left(cache):
    return sorted(path.name for part in ("converted", "quantized") for path in (cache / part).iterdir()
                  if path.name in {"c1", "q1", "q2"})  # fmt: skip


def test_a_sweep_takes_what_nobody_used_for_long_and_a_use_counts(full):
    for name in ("converted/c1", "quantized/q1", "quantized/q2"):
        age(full / name, 100)
    stored(full / "quantized" / "q1", lambda _: pytest.fail("made again"))
    used(full / "converted" / "c1")
    own = cached(full)[0].quantized[0].size_bytes
    assert sweep(full, 90, 0, set()) == own
    assert left(full) == ["c1", "q1"]
    assert sweep(full, 90, 0, set()) == 0


def test_above_its_size_the_cache_loses_the_longest_unused(full):
    for days, name in enumerate(("quantized/q1", "quantized/q2", "converted/c1")):
        age(full / name, days)
    room = cached(full)[1].quantized[0].size_bytes + 10
    sweep(full, 90, room, set())
    assert left(full) == ["q1"]


def test_the_base_of_a_live_job_stays_however_old_and_large_it_is(full):
    for name in ("converted/c1", "quantized/q1", "quantized/q2"):
        age(full / name, 1000)
    sweep(full, 90, 1, {"small"})
    assert left(full) == ["c1", "q1"]


def test_what_is_being_made_is_left_to_the_next_sweep(full):
    age(full / "converted" / "c1", 100)
    with cache_room._locked(full / "converted" / "c1"):
        assert sweep(full, 90, 0, set()) == 0
    assert left(full) == ["c1", "q1", "q2"]


def test_a_cache_that_is_not_there_is_swept_too(tmp_path):
    assert sweep(tmp_path / "nowhere", 90, 1, set()) == 0
