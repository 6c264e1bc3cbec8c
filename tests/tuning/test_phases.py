import pytest

from celora.tuning import phases as progresses
from celora.tuning.phases import PhaseProgress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progresses, "time", clock)
    return clock


@pytest.fixture
def told():
    events = []

    def emit(event, **fields):
        events.append((event, fields["phase"], fields["done"], fields["total"], fields["eta_s"]))

    emit.events = events
    return emit


def test_a_phase_tells_what_is_done_and_how_long_the_rest_takes(clock, told):
    progress = PhaseProgress(told, "read", 1000)
    clock.now += 2
    progress.at(250)
    clock.now += 2
    progress.end()
    assert told.events == [
        ("phase", "read", 0, 1000, None),
        ("phase", "read", 250, 1000, 6.0),
        ("phase", "read", 1000, 1000, 0.0),
    ]


def test_it_tells_no_more_than_twice_a_second(clock, told):
    progress = PhaseProgress(told, "read", 1000)
    for done in range(1000):
        clock.now += 0.125
        progress.at(done)
    assert len(told.events) == 1 + 250


def test_a_phase_of_unknown_length_tells_no_figures(clock, told):
    progress = PhaseProgress(told, "look")
    clock.now += 5
    progress.at(7)
    progress.end()
    assert told.events == [("phase", "look", None, None, None)] * 2
