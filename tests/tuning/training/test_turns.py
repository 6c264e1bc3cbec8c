"""Runs take turns: one at a time, fairly, by weight, and their shares are the time of the device."""

import threading

import pytest
from waiting import until

from celora.tuning.training.turns import Turns


class Log:
    """The state of a run that writes down when it is in force."""

    def __init__(self, name, lines):
        self.name, self.lines = name, lines

    def install(self):
        self.lines.append(f"{self.name} in")

    def remove(self):
        self.lines.append(f"{self.name} out")


class Clock:
    """A clock that moves by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_together(turns, weights, steps, work=lambda _name: None):
    """Let runs take their steps, all in the line before the first one begins; return the order of the steps."""
    order, lines, threads = [], [], []
    first = turns.join(Log("first", []))
    first.take()
    joined = {name: turns.join(Log(name, lines), weight) for name, weight in weights.items()}

    def body(name, turn):
        turn.take()
        for _ in range(steps):
            turn.over()
            work(name)
            order.append(name)
        turn.give()
        turns.leave(turn)

    for name, turn in joined.items():
        threads.append(threading.Thread(target=body, args=(name, turn), daemon=True))
        threads[-1].start()
        until(lambda turn=turn: turn.is_waiting)
    first.give()
    turns.leave(first)
    for thread in threads:
        thread.join(60)
    return order, lines, joined


def test_equal_runs_alternate_and_the_state_of_one_is_in_force_at_a_time():
    order, lines, _ = run_together(Turns(), {"a": 1.0, "b": 1.0}, 4)
    assert order[:6] == ["a", "b"] * 3 or order[1:7] == ["a", "b"] * 3 or order[1:7] == ["b", "a"] * 3
    assert sorted(order) == ["a"] * 4 + ["b"] * 4
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert all((begin.split()[0], end) == (end.split()[0], f"{begin.split()[0]} out") for begin, end in pairs)


def test_a_run_of_twice_the_weight_takes_two_steps_a_turn():
    order, _, _ = run_together(Turns(), {"a": 2.0, "b": 1.0}, 6)
    both = "".join(order[1:8])
    assert "aab" in both
    assert "bb" not in "".join(order[: order.index("b") + 3])


def test_the_shares_follow_the_turns_and_their_sum_is_the_time(monkeypatch):
    clock = Clock()

    def work(name):
        clock.now += 3.0 if name == "a" else 1.0

    _, _, joined = run_together(Turns(clock), {"a": 1.0, "b": 1.0}, 5, work)
    used = {name: turn.share_s for name, turn in joined.items()}
    assert used == pytest.approx({"a": 15.0, "b": 5.0}, abs=0.01)


def test_the_clock_of_a_run_stands_still_while_others_have_the_device():
    clock, marks = Clock(), {}

    def work(name):
        clock.now += 1.0

    _, _, joined = run_together(Turns(clock), {"a": 1.0, "b": 1.0}, 3, work)
    for name, turn in joined.items():
        marks[name] = turn.clock()
    assert clock.now == 6.0
    assert max(marks.values()) <= 6.0
    assert min(marks.values()) >= 3.0


def test_a_part_of_a_step_ends_a_turn_only_after_its_time():
    clock = Clock()
    turns = Turns(clock)
    lines = []
    mine, other = turns.join(Log("mine", lines)), turns.join(Log("other", lines))
    mine.take()
    thread = threading.Thread(target=lambda: (other.take(), other.give()), daemon=True)
    thread.start()
    until(lambda: other.is_waiting)
    mine.over(0.5)
    assert other.is_waiting
    clock.now = 0.5
    mine.over(0.5)
    thread.join(60)
    assert lines == ["mine in", "mine out", "other in", "other out", "mine in"]


def test_a_run_that_waits_for_something_else_lets_the_others_work():
    turns, lines = Turns(), []
    mine, other = turns.join(Log("mine", lines)), turns.join(Log("other", lines))
    mine.take()
    with mine.away():
        other.take()
        other.give()
    mine.give()
    assert lines == ["mine in", "mine out", "other in", "other out", "mine in", "mine out"]
