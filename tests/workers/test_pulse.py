"""The progress clock: silence is a stall only when it is long for what the trainer does."""

import pytest

from celora.workers.pulse import LOADING, Pulse, oom_kills

STEP, LOADS = {"event": "progress", "step": 1}, {"event": "phase", "phase": "loading"}


def stepping(step_s, *, stall_s=600, steps=5):
    pulse = Pulse(stall_s, 0.0)
    for number in range(1, steps + 1):
        pulse.heard(STEP, number * step_s)
    return pulse, steps * step_s


def test_quick_steps_have_the_ten_minutes():
    pulse, now = stepping(1.0)
    assert not pulse.stalled(now + 599)
    assert pulse.stalled(now + 601)


def test_slow_steps_have_twenty_of_their_own():
    pulse, now = stepping(60.0)
    assert not pulse.stalled(now + 1199)
    assert pulse.stalled(now + 1201)


def test_one_long_step_does_not_move_the_limit():
    pulse, now = stepping(1.0, steps=9)
    pulse.heard(STEP, now + 500)
    assert pulse.stalled(now + 500 + 601)


def test_loading_and_evaluating_have_three_times_as_long():
    pulse, now = stepping(1.0)
    pulse.heard(LOADS, now)
    assert not pulse.stalled(now + LOADING * 600 - 1)
    assert pulse.stalled(now + LOADING * 600 + 1)


def test_each_sign_of_life_starts_the_clock_anew():
    pulse, now = stepping(1.0)
    pulse.heard(STEP, now + 599)
    assert not pulse.stalled(now + 1100)


def test_the_time_before_an_evaluation_is_no_step():
    pulse, now = stepping(1.0)
    pulse.heard(LOADS, now + 1)
    pulse.heard(STEP, now + 1000)
    pulse.heard(STEP, now + 1001)
    assert pulse.stalled(now + 1001 + 601)


def test_it_can_be_switched_off():
    pulse = Pulse(None, 0.0)
    assert not pulse.stalled(1e9)


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
    ],
)
def test_the_kernels_kills_are_counted_in_both_kinds_of_control_groups(tmp_path, name, text, count):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert oom_kills(tmp_path) == count


def test_without_control_groups_nothing_is_known(tmp_path):
    assert oom_kills(tmp_path) == 0
