"""Runs of a host share a device, and a stage with a process of its own has it alone."""

import threading
from pathlib import Path

import pytest
from waiting import until

from celora.tuning.trainer.host_messages import OVER, WAITING
from celora.workers.trainer import shared_device
from celora.workers.trainer.hosts import HostPlace
from celora.workers.trainer.shared_device import DeviceLock, SharedDevice


class EndedError(Exception):
    """The stage has to end."""


@pytest.fixture
def lock(tmp_path):
    """Make locks of one device; each ends its wait where the test says so, and all are left in the end."""
    made = []

    def make(ended=lambda: False, name="host.device"):
        def wait():
            if ended():
                raise EndedError

        made.append(DeviceLock(tmp_path / name, wait))
        return made[-1]

    yield make
    for one in made:
        one.leave()


def begun(act):
    """Run on a thread; the thread has begun when this returns."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_several_share_a_device_and_one_that_wants_it_alone_waits_for_all(lock):
    first, second, alone = lock(), lock(), lock()
    first.share()
    second.share()
    assert first.alone_s is None
    waiting = begun(alone.take_alone)
    first.leave()
    waiting.join(0.5)
    assert alone.alone_s is None
    second.leave()
    waiting.join(60)
    assert alone.alone_s >= 0


def test_nobody_overtakes_a_stage_that_waits_for_the_device_alone(lock, tmp_path):
    first, alone, late = lock(), lock(), lock()
    order = []
    first.share()
    threads = [begun(lambda: (alone.take_alone(), order.append("alone")))]
    until(lambda: not is_free(tmp_path / "host.device.turnstile"))
    threads.append(begun(lambda: (late.share(), order.append("late"))))
    first.leave()
    threads[0].join(60)
    assert order == ["alone"]
    alone.leave()
    threads[1].join(60)
    assert order == ["alone", "late"]


def is_free(path):
    with path.open("a") as file:
        return shared_device.try_lock(file, shared=True)


def test_a_stage_that_has_to_end_gives_its_place_in_the_line_up(lock):
    holder, ended = lock(), threading.Event()
    holder.take_alone()
    leaving = lock(ended.is_set)
    ended.set()
    with pytest.raises(EndedError):
        leaving.share()
    with pytest.raises(EndedError):
        leaving.take_alone()
    holder.leave()
    leaving.take_alone()
    leaving.leave()
    leaving.leave()
    lock().take_alone()


def shared(tmp_path, events, slots=2, check=lambda: None):
    place = HostPlace(socket=tmp_path / "host-1.sock", log=Path("log"), owner=1, device="cpu", idle_s=1.0, slots=slots)
    return SharedDevice(place, events.append, check)


def test_a_process_is_charged_from_the_time_at_which_it_has_the_device(tmp_path, lock, monkeypatch):
    asked, seen, holder = [], [], lock(name="host-1.device")
    monkeypatch.setattr(shared_device, "drop_base", asked.append)
    holder.share()
    device = shared(tmp_path, seen, check=lambda: seen and holder.leave())
    with device:
        device.share()
        device.handle({"event": "phase", "phase": "loading"})
        device.take_alone()
        device.handle({"event": "progress", "step": 1})
        device.handle({"event": "note", "message": "m"})
    assert [event.get("phase", event["event"]) for event in seen] == ["loading", WAITING, "progress", "note", OVER]
    assert ["device_s" in event for event in seen] == [False, True, True, False, True]
    assert seen[1]["device_s"] == 0.0
    assert 0 <= seen[2]["device_s"] <= seen[4]["device_s"] < 60
    assert len(asked) == 1
    lock(name="host-1.device").take_alone()


def test_with_one_slot_nothing_is_locked_and_no_event_changes(tmp_path):
    seen = []
    with shared(tmp_path, seen, slots=1) as nothing:
        assert nothing is None
    device = shared(tmp_path, seen, slots=1)
    with device:
        device.share()
        device.take_alone()
        device.handle({"event": "phase", "phase": "loading"})
    assert seen == [{"event": "phase", "phase": "loading"}]
    assert list(tmp_path.iterdir()) == []
