"""Sending within a deadline: a broker that does not answer costs its callers almost nothing."""

import os
import threading
import time

import pytest
from kombu.exceptions import OperationalError

from celora.workers import sending


@pytest.fixture(autouse=True)
def line():
    sending._afresh()
    yield
    sending._afresh()


def test_what_gets_through_is_sent():
    sent = []
    assert sending.attempt(lambda: sent.append(1), "a word")
    assert sent == [1]


def test_a_broker_that_does_not_answer_costs_its_limit_once_and_then_nothing():
    answers = threading.Event()
    began = time.monotonic()
    assert not sending.attempt(lambda: answers.wait(10), "a word", within_s=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    began = time.monotonic()
    assert not any(sending.attempt(lambda: None, "a word") for _ in range(1000))
    assert time.monotonic() - began < 2, "a thousand limits would be 200 s"
    answers.set()


def test_a_late_success_ends_the_rest():
    answers = threading.Event()
    assert not sending.attempt(lambda: answers.wait(10), "a word", within_s=0.1)
    answers.set()
    deadline = time.monotonic() + 2
    while not sending.attempt(lambda: None, "a word"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_refused_connection_is_an_answer_of_false_and_a_mistake_is_raised():
    def refused():
        raise OperationalError("connection refused")

    assert not sending.attempt(refused, "a word")
    sending._afresh()
    with pytest.raises(TypeError):
        sending.attempt(lambda: 1 + "1", "a word")


def test_a_forked_child_does_not_wait_for_its_parents_thread():
    answers = threading.Event()
    sending.attempt(lambda: answers.wait(10), "a word", within_s=0.05)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sending.attempt(lambda: None, "a word", within_s=2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    answers.set()


def test_a_broker_that_stays_away_is_tried_ever_more_seldom_and_a_message_from_it_ends_that(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sending.time, "monotonic", lambda: clock[0])
    tries = []

    def refused():
        tries.append(clock[0])
        raise OperationalError("connection refused")

    while clock[0] < 40:
        sending.attempt(refused, "a word")
        clock[0] += 0.5
    assert tries == [0, 3, 9, 21]
    sending.heard()
    assert sending.attempt(lambda: None, "a word")
