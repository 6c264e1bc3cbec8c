import errno
import os
import subprocess
import sys
import time

import pytest

from celora.errors import DiskFullError, NotFoundError, UnavailableError
from celora.storage.file_lock import locked
from celora.storage.manifest import write_manifest
from celora.tuning.bases import cache as cache_room
from celora.tuning.bases.cache import copies, is_whole, remove, stored, sweep, used


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

    with pytest.raises(DiskFullError, match=rf"no space left for a copy of the base at {tmp_path} .*MiB free"):
        stored(tmp_path / "key", make)


def test_two_processes_make_a_copy_once(tmp_path):
    script = """
import os, sys, time
from pathlib import Path
from celora.tuning.bases.cache import stored
here = Path(sys.argv[1])
def make(staged):
    with (here / "made").open("a") as log: log.write("x")
    while len(list(here.glob("came-*"))) < 3: time.sleep(0.01)
    return {}
(here / f"came-{os.getpid()}").touch()
stored(here / "key", make)
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


def test_the_listing_names_each_finished_copy_and_skips_what_was_never_finished(full):
    own, converted, quantized = copies(full)
    assert (own.name, own.form, own.revisions, own.path.name) == ("/models/own", "quantized", ("sha256:2",), "q2")
    assert (converted.name, converted.form, converted.path) == ("small", "converted", full / "converted" / "c1")
    assert (quantized.name, quantized.form, quantized.source) == ("small", "quantized", "small")
    assert converted.size_bytes > 8


def test_an_empty_cache_lists_nothing(tmp_path):
    assert copies(tmp_path / "nowhere") == []


def test_removing_takes_every_copy_of_a_base_and_nothing_else(full):
    _own, *small = copies(full)
    assert remove(full, "small") == small
    assert [copy.name for copy in copies(full)] == ["/models/own"]
    with pytest.raises(NotFoundError, match="no base model small is cached"):
        remove(full, "small")


def test_huggingface_hub_lists_and_removes_its_own(tmp_path):
    repo = tmp_path / "hub" / "models--org--model"
    for commit, content in (("c0ffee", b"y" * 500), ("decade", b"z" * 700)):
        (repo / "blobs").mkdir(parents=True, exist_ok=True)
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "blobs" / commit).write_bytes(content)
        (repo / "snapshots" / commit / "model.safetensors").symlink_to(repo / "blobs" / commit)
    (found,) = copies(tmp_path)
    assert (found.name, found.form, found.size_bytes) == ("org/model", "hub", 1200)
    assert found.revisions == ("c0ffee", "decade")
    assert remove(tmp_path, "org/model") == [found]
    assert copies(tmp_path) == []
    assert not list(repo.glob("blobs/*"))


def test_a_users_own_folder_is_never_removed(full, tmp_path):
    own = tmp_path / "own"
    put(own, name="x")
    facts = {"name": str(own), "kind": "folder", "revision": "sha256:3", "source": str(own)}
    put(full / "quantized" / "q3", **facts, settings={}, unquantized=[])
    remove(full, str(own))
    assert (own / "model.safetensors").is_file()
    assert not (full / "quantized" / "q3").exists()


MAKE_AGAIN = """
import sys, time
from pathlib import Path
from celora.tuning.bases.cache import stored
def make(staged):
    print("making", flush=True)
    sys.stdin.read()
    (staged / "model.safetensors").write_bytes(b"12345678")
    return {"name": "small", "kind": "catalogue", "revision": "sha256:1", "source": "small"}
stored(Path(sys.argv[1]), make)
"""


def test_no_copy_of_a_base_is_removed_while_one_of_them_is_being_made(full):
    damaged = full / "quantized" / "q1"
    (damaged / "model.safetensors").write_bytes(b"1234")  # so that the next job makes it again
    command = [sys.executable, "-c", MAKE_AGAIN, str(damaged)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout.readline() == "making\n"
        with pytest.raises(UnavailableError, match="q1 is being made by another process"):
            remove(full, "small")
        assert left(full) == ["c1", "q1", "q2"]
        maker.stdin.close()
        assert maker.wait() == 0
    assert is_whole(damaged)
    assert [copy.path.name for copy in remove(full, "small")] == ["c1", "q1"]


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
    own = copies(full)[0].size_bytes
    assert sweep(full, 90, 0, set()) == own
    assert left(full) == ["c1", "q1"]
    assert sweep(full, 90, 0, set()) == 0


def test_above_its_size_the_cache_loses_the_longest_unused(full):
    for days, name in enumerate(("quantized/q1", "quantized/q2", "converted/c1")):
        age(full / name, days)
    room = copies(full)[2].size_bytes + 10
    sweep(full, 90, room, set())
    assert left(full) == ["q1"]


def test_the_base_of_a_live_job_stays_however_old_and_large_it_is(full):
    for name in ("converted/c1", "quantized/q1", "quantized/q2"):
        age(full / name, 1000)
    sweep(full, 90, 1, {"small"})
    assert left(full) == ["c1", "q1"]


def test_what_is_being_made_is_left_to_the_next_sweep(full):
    age(full / "converted" / "c1", 100)
    with locked(cache_room.lock_of(full / "converted" / "c1")):
        assert sweep(full, 90, 0, set()) == 0
    assert left(full) == ["c1", "q1", "q2"]


def test_a_cache_that_is_not_there_is_swept_too(tmp_path):
    assert sweep(tmp_path / "nowhere", 90, 1, set()) == 0
