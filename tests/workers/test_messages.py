"""Sending within a deadline: a broker that does not answer costs its callers almost nothing."""

import ast
import os
import threading
import time
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from waiting import HANG_S, until

from celora.workers import messages


@pytest.fixture(autouse=True)
def line():
    messages.close_connection()
    yield
    messages.close_connection()


def test_what_gets_through_is_sent():
    sent = []
    assert messages.attempt(lambda: sent.append(1), "a word")
    assert sent == [1]


def test_a_broker_that_does_not_answer_costs_its_limit_once_and_then_nothing():
    answers = threading.Event()
    began = time.monotonic()
    assert not messages.attempt(lambda: answers.wait(HANG_S), "a word", within_s=0.2)
    assert time.monotonic() - began >= 0.2
    assert not any(messages.attempt(lambda: None, "a word", within_s=HANG_S) for _ in range(1000))
    answers.set()


def test_a_late_success_ends_the_rest():
    answers = threading.Event()
    assert not messages.attempt(lambda: answers.wait(HANG_S), "a word", within_s=0.1)
    answers.set()
    until(lambda: messages.attempt(lambda: None, "a word"))


def test_a_refused_connection_is_an_answer_of_false_and_a_mistake_is_raised():
    def refused():
        raise OperationalError("connection refused")

    assert not messages.attempt(refused, "a word")
    messages.close_connection()
    with pytest.raises(TypeError):
        messages.attempt(lambda: 1 + "1", "a word")


def test_one_thread_sends_all_messages_and_makes_one_result_backend():
    from celora.workers.celery import app

    threads, backends = set(), set()

    def send():
        threads.add(threading.get_ident())
        backends.add(id(app.backend))

    for _ in range(5):
        assert messages.attempt(send, "a word", within_s=HANG_S)
    assert (len(threads), len(backends)) == (1, 1)
    assert threads.isdisjoint({threading.get_ident()})


def test_a_closed_connection_ends_its_thread_and_the_next_message_starts_another():
    sending = []
    assert messages.attempt(lambda: sending.append(threading.current_thread()), "a word", within_s=HANG_S)
    messages.close_connection()
    sending[0].join(HANG_S)
    assert not sending[0].is_alive()
    assert messages.attempt(lambda: sending.append(threading.current_thread()), "a word", within_s=HANG_S)
    assert sending[0] is not sending[1]


def test_a_forked_child_does_not_wait_for_its_parents_thread():
    answers = threading.Event()
    messages.attempt(lambda: answers.wait(HANG_S), "a word", within_s=0.05)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if messages.attempt(lambda: None, "a word", within_s=HANG_S) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    answers.set()


def test_a_round_that_is_requested_for_later_is_requested_once_and_the_round_may_request_the_next(monkeypatch):
    requested = []

    def request():
        requested.append(time.monotonic())
        if len(requested) < 3:
            messages.request_tick_later(0.1)

    monkeypatch.setattr(messages, "request_tick", request)
    began = time.monotonic()
    for _ in range(5):
        messages.request_tick_later(0.1)
    until(lambda: len(requested) == 3)
    assert requested[-1] - began >= 0.3


def test_a_closed_connection_requests_no_round_any_more(monkeypatch):
    requested = threading.Event()
    monkeypatch.setattr(messages, "request_tick", requested.set)
    messages.request_tick_later(0.1)
    messages.close_connection()
    assert not requested.wait(0.3)


def test_a_broker_that_stays_away_is_tried_ever_more_seldom_and_a_message_from_it_ends_that(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: clock[0])
    tries = []

    def refused():
        tries.append(clock[0])
        raise OperationalError("connection refused")

    while clock[0] < 40:
        messages.attempt(refused, "a word")
        clock[0] += 0.5
    assert tries == [0, 3, 9, 21]
    messages.note_broker_up()
    assert messages.attempt(lambda: None, "a word")


def test_no_message_of_the_product_subscribes_to_a_result():
    """Celery gives up on a result store that is away for good, and every later message would fail in its sender."""
    root = Path(messages.__file__).parent.parent
    calls = [
        (path.relative_to(root).as_posix(), node)
        for room in ("api", "cli", "models", "services", "tasks", "workers")
        for path in sorted((root / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "send_task"
    ]
    assert len(calls) > 3
    assert [(place, call.lineno) for place, call in calls
            if not any(one.arg == "ignore_result" for one in call.keywords)] == []  # fmt: skip
