"""A local base lies below the allowed folders, and the files that were judged are the files that are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.kinds.bases import make_base, make_gguf

from celora.errors import BadBaseError, BaseModelError
from celora.tuning.bases import base, local_files
from celora.tuning.protocol import HubAccess


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An allowed folder with a base, a hub's snapshot of it and a ``.gguf`` file; and the same base outside."""
    place = tmp_path_factory.mktemp("rooted")
    plain = make_base(place / "allowed" / "plain")
    make_base(place / "outside" / "base")
    make_gguf(place / "allowed" / "model.gguf")
    make_gguf(place / "outside" / "model.gguf")
    blobs, snapshot = place / "allowed" / "hub" / "blobs", place / "allowed" / "hub" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in plain.iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return place


@pytest.fixture
def resolve(made, tmp_path):
    access = HubAccess(offline=True, local_roots=[str(made / "allowed")])

    def run(source):
        found = base.resolve(str(source), None, tmp_path / "cache", access, lambda *_, **__: None)
        return base.folder(found, tmp_path / "cache", access, lambda *_, **__: None), found

    return run


def test_a_base_below_an_allowed_folder_is_read_through_the_judged_descriptors(made, resolve):
    folder, found = resolve(made / "allowed" / "plain")
    assert found.source == str(made / "allowed" / "plain")
    assert folder.name == "plain"
    targets = {path.readlink().parent for path in folder.iterdir()}
    assert targets == {Path("/proc/self/fd")}
    assert base.load_tokenizer(folder).eos_token == "</s>"


def test_a_hubs_snapshot_whose_links_stay_below_the_folder_is_read(made, resolve):
    _, found = resolve(made / "allowed" / "hub" / "snapshots" / "c0ffee")
    assert found.revision == resolve(made / "allowed" / "plain")[1].revision


@pytest.mark.parametrize("name", ["base", "model.gguf"])
def test_a_base_outside_of_the_allowed_folders_is_refused(made, resolve, name):
    with pytest.raises(BaseModelError, match="lies outside the allowed folders"):
        resolve(made / "outside" / name)


@pytest.mark.parametrize("name", ["base", "model.gguf"])
def test_a_link_to_a_base_outside_is_refused(made, resolve, name):
    link = made / "allowed" / f"link-to-{name}"
    link.symlink_to(made / "outside" / name)
    try:
        with pytest.raises(BaseModelError, match="lies outside the allowed folders"):
            resolve(link)
    finally:
        link.unlink()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_of_a_base_that_leads_out_is_refused(made, resolve, name):
    path = made / "allowed" / "plain" / name
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(made / "outside" / "base" / name)
    try:
        with pytest.raises(BadBaseError, match="lies outside the allowed folders"):
            resolve(made / "allowed" / "plain")
    finally:
        path.unlink()
        path.write_bytes(content)


def test_a_file_that_is_exchanged_after_the_judgement_is_not_read(made, resolve):
    folder, found = resolve(made / "allowed" / "plain")
    path = made / "allowed" / "plain" / "config.json"
    kept = path.with_name("kept")
    path.rename(kept)
    path.symlink_to("/etc/passwd")
    try:
        assert (folder / "config.json").read_text() == kept.read_text()
    finally:
        kept.replace(path)
    assert resolve(made / "allowed" / "plain")[1] == found


def test_a_base_in_a_place_that_nobody_limited_is_read_where_it_lies(made, tmp_path):
    everywhere = HubAccess(offline=True, local_roots=["/"])
    found = base.resolve(str(made / "outside" / "base"), None, tmp_path, everywhere, lambda *_, **__: None)
    assert base.folder(found, tmp_path, everywhere, lambda *_, **__: None) == made / "outside" / "base"


def test_the_view_of_a_process_that_was_killed_is_removed_by_the_next_one(made, tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from celora.tuning.bases.local_files import files_of, view\n"
        "base, cache = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print(view(base, files_of(base), [base.parent], cache), flush=True)\n"
        "if sys.argv[3] == 'killed': os.kill(os.getpid(), 9)"
    )
    views = tmp_path / local_files.VIEWS

    def run(how):
        arguments = [sys.executable, "-c", script, str(made / "allowed" / "plain"), str(tmp_path), how]
        return Path(subprocess.run(arguments, capture_output=True, text=True, check=how != "killed").stdout.strip())

    left = run("killed")
    assert left.is_dir()
    assert not run("ended").exists()
    assert list(views.iterdir()) == []


def test_a_fifo_beside_the_weights_is_refused_at_once(made, resolve):
    fifo = made / "allowed" / "plain" / "special_tokens_map.json"
    os.mkfifo(fifo)
    try:
        with pytest.raises(BadBaseError, match="is a FIFO"):
            resolve(made / "allowed" / "plain")
    finally:
        fifo.unlink()


def test_a_panic_of_a_tokenizer_is_the_bases_fault_and_every_other_error_is_not():
    class PanicException(BaseException):
        """As the bindings of Rust name it."""

    with pytest.raises(BadBaseError, match="called `Option::unwrap"), local_files.panics_explained(Path("/base")):
        raise PanicException("called `Option::unwrap()` on a `None` value\nnote: run with RUST_BACKTRACE=1")
    with pytest.raises(KeyboardInterrupt), local_files.panics_explained(Path("/base")):
        raise KeyboardInterrupt


def test_a_folder_without_files_is_refused_in_a_sentence(made, resolve):
    (made / "allowed" / "empty").mkdir()
    with pytest.raises(BaseModelError, match="has no model weights") as refused:
        resolve(made / "allowed" / "empty")
    assert str(made / "allowed" / "empty") in str(refused.value)
    assert local_files.VIEWS not in str(refused.value)


@pytest.mark.parametrize("way", ["..", "../.", "../../plain/inner/.."])
def test_a_base_whose_path_ends_with_dots_is_read_as_its_folder(made, resolve, way):
    inner = made / "allowed" / "plain" / "inner"
    inner.mkdir(exist_ok=True)
    folder, _ = resolve(f"{inner}/{way}")
    assert base.load_tokenizer(folder).eos_token == "</s>"
    with pytest.raises(BaseModelError, match="has no model weights"):
        resolve(f"{made}/allowed/plain/..")
