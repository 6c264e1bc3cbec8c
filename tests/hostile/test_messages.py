"""Messages of somebody who can write to the broker: one of them must not stop a worker, nor stay in its way."""

import json
import os
import signal

import pytest
from hostile.attack import hold
from hostile.kinds.messages import LINES, MALFORMED
from worker_alone import WorkerAlone, message

pytestmark = pytest.mark.slow


def test_lines_that_are_no_messages_are_dropped_and_the_worker_lives_on(worker_alone):
    pid = worker_alone.process.pid
    for line in LINES.values():
        worker_alone.send(line)
    for made in MALFORMED.values():
        worker_alone.send(json.dumps(made))
    # A line that has been popped is for a moment neither in the queue nor in the list.
    worker_alone.until(lambda: len(worker_alone.dropped()) >= len(LINES) + len(MALFORMED))
    worker_alone.until(worker_alone.emptied)
    assert worker_alone.alive()
    assert worker_alone.process.pid == pid
    assert len(worker_alone.dropped()) == len(LINES) + len(MALFORMED)
    assert int(worker_alone.client.hget("celora.dropped_counts", "celora")) >= len(MALFORMED)
    assert not (worker_alone.home / "pwned").exists()


def test_the_first_hundred_seeded_attempts_hold(tmp_path):
    hold("messages", tmp_path, most=100)


def test_a_message_that_killed_a_worker_is_not_met_again(tmp_path):
    """The kill stands for whatever ends the main process: the message is in hand, since its task never gets a slot."""
    one = WorkerAlone(tmp_path)
    try:
        one.send(json.dumps(message("celora.sweep", message_id="late", headers={"eta": "2090-01-01T00:00:00+00:00"})))
        one.until(lambda: "late" in one.in_hand())
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
        one.start()
        one.until(lambda: any(entry["message_id"] == "late" for entry in one.dropped()))
        one.until(one.emptied)
        entry = next(entry for entry in one.dropped() if entry["message_id"] == "late")
        assert "died with it in hand" in entry["fault"]
        assert (entry["queue"], entry["task"], entry["worker"]) == ("celora", "celora.sweep", "control@here")
    finally:
        one.stop()


def test_what_a_worker_has_in_hand_when_it_leaves_in_order_counts_as_no_death(tmp_path):
    one = WorkerAlone(tmp_path)
    try:
        one.send(json.dumps(message("celora.sweep", message_id="late", headers={"eta": "2090-01-01T00:00:00+00:00"})))
        one.until(lambda: "late" in one.in_hand())
        one.leave()
        assert one.in_hand() == []
        one.start()
        one.until(lambda: "late" in one.in_hand())
        assert one.client.hlen("celora.deaths") == 0
    finally:
        one.stop()
