"""One worker of a machine keeps its disks bounded, each hour, and never touches the files of a live job."""

import os
import threading
import time

import pytest
from records import Verbs

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.workers.lifecycle import housekeeping
from celora.workers.lifecycle.housekeeping import keep_house, sweep_scratch
from celora.workers.signal_files import Markers

SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl"}
DAY = 86400


@pytest.fixture
def record(home):
    database = get_database()
    database.migrate()
    return Verbs(database)


@pytest.fixture
def scratch(home):
    """Makes a folder of the scratch, untouched for so many days."""

    def make(*names, days=2.0):
        folder = get_settings().scratch.joinpath(*names)
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 10)
        for path in (folder / "file", *[folder, *folder.parents][: len(names)]):
            os.utime(path, (time.time() - days * DAY,) * 2)
        return folder

    return make


@pytest.fixture
def ended(record):
    """The id of a job that was cancelled."""
    record.submit(job_id="ended", spec=parse_spec(SPEC))
    record.request_cancel("ended")
    return "ended"


def test_scratch_of_ended_jobs_and_of_attempts_that_are_over_goes_and_the_present_one_stays(record, scratch, ended):
    record.submit(job_id="live", spec=parse_spec(SPEC))
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "live").attempt = 2
    over, present, coming = (scratch("live", f"attempt-{number}") for number in (1, 2, 3))
    other = scratch("live", "attempt-one")
    gone, busy = scratch(ended, "attempt-1"), scratch("strange", days=1)
    old = scratch("generate", "name", days=8)
    assert sweep_scratch(get_settings(), record.database) > 0
    assert [path.exists() for path in (over, present, coming, other)] == [False, True, True, True]
    assert [path.exists() for path in (gone, busy, old)] == [False, True, False]


def test_scratch_that_was_touched_a_moment_ago_is_in_use(record, scratch, ended):
    folder = scratch(ended, "attempt-1")
    (folder / "new").write_text("written by an evaluation that is repeated")
    assert sweep_scratch(get_settings(), record.database) == 0
    assert folder.exists()


def test_a_machine_without_scratch_has_nothing_to_sweep(record):
    assert sweep_scratch(get_settings(), record.database) == 0


def test_one_worker_of_a_machine_keeps_house_and_not_twice_an_hour(record, scratch):
    scratch("strange", days=8)
    assert keep_house(get_settings(), record.database) > 0
    scratch("another", days=8)
    assert keep_house(get_settings(), record.database) == 0
    assert keep_house(get_settings(), record.database, every_s=0) > 0
    scratch("third", days=8)
    with housekeeping._turn(get_settings().home / "run" / "housekeeping.lock", 0) as ours:
        assert ours
        assert keep_house(get_settings(), record.database, every_s=0) == 0


@pytest.mark.parametrize(
    ("content", "ours"),
    [("", True), ("0", True), ("{now}", False), ("{later}", True), ("\0\0\0", True), ("soon", True), ("nan", True)],
)
def test_a_time_that_cannot_be_read_or_lies_ahead_keeps_no_worker_away(home, content, ours):
    lock = home / "run" / "housekeeping.lock"
    lock.parent.mkdir()
    lock.write_text(content.format(now=time.time(), later=time.time() + DAY))
    with housekeeping._turn(lock, 3600) as found:
        assert found is ours
    with housekeeping._turn(lock, 3600) as found:
        assert found is False


def test_the_bases_of_live_jobs_stay_and_others_go_after_their_time(record, ended, monkeypatch):
    asked = []
    monkeypatch.setattr(housekeeping.cache, "sweep", lambda *about: asked.append(about) or 7)
    record.submit(job_id="a", spec=parse_spec({**SPEC, "base_model": "given"}))
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "a").base = {"name": "resolved"}
    record.submit(job_id="b", spec=parse_spec({**SPEC, "base_model": "other"}))
    assert housekeeping.sweep_caches(get_settings(), record.database) == 7
    ((folder, days, limit_bytes, needed),) = asked
    assert (folder, days, limit_bytes) == (get_settings().cache, 90, 0)
    assert needed == {"resolved", "other"}


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("a damaged file")])
def test_a_round_that_fails_does_not_end_the_thread(home, monkeypatch, caplog, error):
    stop, rounds, again = threading.Event(), [], threading.Event()

    def broken(*_):
        rounds.append(1)
        if len(rounds) > 1:
            again.set()
        raise error

    monkeypatch.setattr(housekeeping, "keep_house", broken)
    monkeypatch.setattr(housekeeping, "EVERY_S", 0.0)
    thread = housekeeping.watch(stop)
    again.wait()
    stop.set()
    thread.join()
    assert str(error) in caplog.text


def test_the_markers_of_processes_that_are_gone_are_taken_down(record):
    markers = Markers(get_settings().home / "run")
    marker = markers.cancel("job")
    markers.set(marker)
    os.utime(marker, (0, 0))
    keep_house(get_settings(), record.database)
    assert not marker.exists()
