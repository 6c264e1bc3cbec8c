"""Markers of a machine: put up, taken down, and swept once the processes that watch them are gone."""

import os
import subprocess
import sys

import pytest

from celora.workers.signal_files import Markers


@pytest.fixture
def markers(tmp_path):
    return Markers(tmp_path / "run")


@pytest.fixture
def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_marker_names_its_process_or_job(markers):
    names = [path.name for path in (markers.drain(7), markers.cancel("job-1"), markers.left(7))]
    assert names == ["drain-7", "cancel-job-1", "left-7"]


def test_a_marker_is_put_up_and_taken_down_as_often_as_wanted(markers):
    marker = markers.drain(7)
    assert not marker.exists()
    for _ in "12":
        markers.set(marker)
        assert marker.exists()
    for _ in "12":
        markers.clear(marker)
        assert not marker.exists()


@pytest.mark.parametrize("kind", ["drain", "left"])
def test_the_marker_of_a_process_goes_once_it_is_gone_and_all_had_time_to_look(markers, gone, kind):
    make = getattr(markers, kind)
    mine, other, fresh = make(os.getpid()), make(gone), make(gone + 1)
    for marker in (mine, other, fresh):
        markers.set(marker)
    for marker in (mine, other):
        os.utime(marker, (0, 0))
    markers.sweep()
    assert [marker.exists() for marker in (mine, other, fresh)] == [True, False, True]


def test_a_cancelled_job_that_this_machine_never_had_leaves_no_marker(markers):
    old, new = markers.cancel("old"), markers.cancel("new")
    for marker in (old, new):
        markers.set(marker)
    os.utime(old, (0, 0))
    markers.sweep()
    assert [marker.exists() for marker in (old, new)] == [False, True]


def test_other_files_of_the_folder_stay(markers):
    markers.folder.mkdir()
    for name in ("beat-schedule", "housekeeping.lock", "schedule-1.lock"):
        (markers.folder / name).touch()
        os.utime(markers.folder / name, (0, 0))
    markers.sweep()
    assert len(list(markers.folder.iterdir())) == 3


def test_a_machine_without_markers_has_none_to_sweep(markers):
    markers.sweep()
    assert not markers.folder.exists()
