"""The progress clock: silence is a stall only when it is long for what the trainer does."""

from celora.workers.trainer.watchdog import LOADING, StallDetector

STEP, LOADS = {"event": "progress", "step": 1}, {"event": "phase", "phase": "loading"}


def stepping(step_s, *, stall_s=600, steps=5):
    detector = StallDetector(stall_s, 0.0)
    for number in range(1, steps + 1):
        detector.note_event(STEP, number * step_s)
    return detector, steps * step_s


def test_quick_steps_have_the_ten_minutes():
    detector, now = stepping(1.0)
    assert not detector.is_stalled(now + 599)
    assert detector.is_stalled(now + 601)


def test_slow_steps_have_twenty_of_their_own():
    detector, now = stepping(60.0)
    assert not detector.is_stalled(now + 1199)
    assert detector.is_stalled(now + 1201)


def test_one_long_step_does_not_move_the_limit():
    detector, now = stepping(1.0, steps=9)
    detector.note_event(STEP, now + 500)
    assert detector.is_stalled(now + 500 + 601)


def test_loading_and_evaluating_have_three_times_as_long():
    detector, now = stepping(1.0)
    detector.note_event(LOADS, now)
    assert not detector.is_stalled(now + LOADING * 600 - 1)
    assert detector.is_stalled(now + LOADING * 600 + 1)


def test_each_sign_of_life_starts_the_clock_anew():
    detector, now = stepping(1.0)
    detector.note_event(STEP, now + 599)
    assert not detector.is_stalled(now + 1100)


def test_the_time_before_an_evaluation_is_no_step():
    detector, now = stepping(1.0)
    detector.note_event(LOADS, now + 1)
    detector.note_event(STEP, now + 1000)
    detector.note_event(STEP, now + 1001)
    assert detector.is_stalled(now + 1001 + 601)


def test_it_can_be_switched_off():
    detector = StallDetector(None, 0.0)
    assert not detector.is_stalled(1e9)
