"""A file that somebody else named: judged by its descriptor, regular, below the roots at the moment it is opened."""

import os
import socket
import threading

import pytest

from celora.errors import DataError
from celora.storage import regular_files
from celora.storage.regular_files import file_name, open_confined, open_regular, pinned


@pytest.fixture
def room(tmp_path):
    """An allowed folder with a file, and one outside with a secret."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "allowed" / "rows.jsonl").write_text("allowed\n")
    (tmp_path / "outside" / "secret.txt").write_text("secret\n")
    return tmp_path


def read(source, room):
    with open_confined(str(source), [room / "allowed"]) as file:
        return file.read()


def test_a_file_below_a_root_is_read(room):
    assert read(room / "allowed" / "rows.jsonl", room) == b"allowed\n"


def test_a_link_that_stays_below_the_root_is_followed(room):
    (room / "allowed" / "snapshot").mkdir()
    (room / "allowed" / "snapshot" / "link.jsonl").symlink_to("../rows.jsonl")
    assert read(room / "allowed" / "snapshot" / "link.jsonl", room) == b"allowed\n"


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_link_that_leaves_the_root_is_refused(room, how):
    if how == "file":
        (room / "allowed" / "link").symlink_to(room / "outside" / "secret.txt")
        source = room / "allowed" / "link"
    else:
        (room / "allowed" / "link").symlink_to(room / "outside")
        source = room / "allowed" / "link" / "secret.txt"
    with pytest.raises(DataError, match="outside the allowed folders"):
        read(source, room)


def test_a_name_that_changes_after_the_check_is_refused_by_its_descriptor(room, monkeypatch):
    """The first check sees the good file, then the name is replaced: what is opened is what is judged."""
    good, judge, calls = room / "allowed" / "rows.jsonl", regular_files.confine, []

    def replaced_after_the_check(source, roots):
        calls.append(str(source))
        found = judge(source, roots)
        if len(calls) == 1:
            good.unlink()
            good.symlink_to(room / "outside" / "secret.txt")
        return found

    monkeypatch.setattr(regular_files, "confine", replaced_after_the_check)
    with pytest.raises(DataError, match="outside the allowed folders"):
        read(good, room)
    assert calls[1] == str(room / "outside" / "secret.txt")


def test_a_name_that_is_swapped_all_the_time_never_yields_the_secret(room):
    """A race of many rounds: whatever is read is the allowed file."""
    swapped, stop = room / "allowed" / "swapped.jsonl", threading.Event()
    swapped.symlink_to("rows.jsonl")

    def swap():
        number = 0
        while not stop.is_set():
            number += 1
            aside = room / f"aside-{number}"
            aside.symlink_to(room / ("outside/secret.txt" if number % 2 else "allowed/rows.jsonl"))
            aside.replace(swapped)

    thread = threading.Thread(target=swap)
    thread.start()
    found, refused = set(), 0
    try:
        for _ in range(2000):
            try:
                found.add(read(swapped, room))
            except DataError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert found <= {b"allowed\n"}
    assert refused
    assert found


def test_what_is_no_regular_file_is_refused_at_once(room):
    os.mkfifo(room / "allowed" / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(room / "allowed" / "socket"))
    (room / "allowed" / "folder").mkdir()
    try:
        for name, kind in {"fifo": "a FIFO", "socket": "a socket", "folder": "a folder"}.items():
            with pytest.raises(DataError, match=f"is {kind}, and only regular files"):
                read(room / "allowed" / name, room)
            with pytest.raises(DataError, match=f"is {kind}"), open_regular(room / "allowed" / name):
                pass
    finally:
        listening.close()
    with pytest.raises(DataError, match="is a device"), open_regular(room.__class__("/dev/zero")):
        pass


def test_a_file_that_is_not_there_is_named(room):
    with pytest.raises(DataError, match=r"none.jsonl can't be read: No such file"):
        read(room / "allowed" / "none.jsonl", room)


def test_a_pinned_file_is_read_after_its_name_points_elsewhere(room):
    good = room / "allowed" / "rows.jsonl"
    with pinned(str(good), [room / "allowed"], room / "pin.jsonl") as link:
        good.unlink()
        good.symlink_to(room / "outside" / "secret.txt")
        assert link.read_bytes() == b"allowed\n"
        child = os.fork()
        if child == 0:
            os._exit(0 if link.read_bytes() == b"allowed\n" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not (room / "pin.jsonl").is_symlink()


@pytest.mark.parametrize("source", ["/proc/self/environ", "/proc/self/maps", "/sys/kernel/uevent_seqnum"])
def test_a_file_of_the_kernel_is_refused_at_once_though_it_passes_for_a_regular_one(source, tmp_path):
    link = tmp_path / "rows.jsonl"
    link.symlink_to(source)
    for path in (source, str(link)):
        with pytest.raises(DataError, match=r"is a file of the kernel|can't be read"), open_confined(path, ["/"]):
            pass


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/rows.jsonl", "rows.jsonl"), ("a/..", "rows"), ("a/../.", "rows"), ("..", "rows"), ("/", "rows"), ("", "rows")],
)
def test_the_name_of_a_new_file_is_never_the_folder_above(path, name):
    assert file_name(path, "rows") == name
