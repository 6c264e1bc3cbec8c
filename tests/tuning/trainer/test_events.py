import json
import os
import threading

import pytest

from celora.errors import LimitError
from celora.tuning.trainer.events import EventStream, JobEvents


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    lost = threading.Event()
    stream = EventStream(write_end, lost.set)
    lines = os.fdopen(read_end)
    yield stream, lines, lost
    stream.close()
    lines.close()


def test_events_of_many_threads_never_mix_in_one_line(pipe):
    stream, lines, _ = pipe
    events = JobEvents(stream)
    threads = [
        threading.Thread(target=lambda n=n: [events.emit("note", thread=n, text="x" * 9000) for _ in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    seen = [json.loads(lines.readline())["thread"] for _ in range(200)]
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(list(range(4)) * 50)


def test_two_jobs_on_one_stream_are_named_each(pipe):
    stream, lines, _ = pipe
    first, second = JobEvents(stream, "a", 1), JobEvents(stream, "b", 7)
    first.emit("note", message="one")
    second.emit("note", message="two")
    first.emit("note", message="three")
    found = [json.loads(lines.readline()) for _ in range(3)]
    assert [(each["job"], each["attempt"], each["message"]) for each in found] == [
        ("a", 1, "one"), ("b", 7, "two"), ("a", 1, "three"),
    ]  # fmt: skip


def test_a_checkpoint_is_out_before_the_wait_for_it_begins(pipe):
    stream, lines, _ = pipe
    waited = []

    def wait(step):
        waited.append((step, json.loads(lines.readline())["event"]))

    events = JobEvents(stream, "a", 1, after_checkpoint=wait)
    events.emit("progress", step=4)
    assert json.loads(lines.readline())["event"] == "progress"
    events.emit("checkpoint", step=4)
    assert waited == [(4, "checkpoint")]


def test_an_error_is_told_with_code_hint_and_facts_where_it_has_some(pipe):
    stream, lines, _ = pipe
    JobEvents(stream, "a", 1).fail(LimitError("too much", hint="less", facts={"rows": 3}))
    JobEvents(stream, "a", 1).fail(LimitError("too much", hint="less"))
    first, second = (json.loads(lines.readline())["error"] for _ in range(2))
    assert first == {"code": LimitError.code, "message": "too much", "hint": "less", "facts": {"rows": 3}}
    assert "facts" not in second


def test_before_the_first_step_a_job_leaves_at_once_and_says_so(pipe):
    stream, lines, _ = pipe
    codes = []
    JobEvents(stream, "a", 1).leave(codes.append)
    assert codes == [75]
    found = json.loads(lines.readline())
    assert (found["event"], found["step"]) == ("drained", 0)


@pytest.mark.parametrize("event", ["started", "done", "failed"])
def test_a_job_with_step_boundaries_or_an_ending_is_not_cut_off(pipe, event):
    stream, _, _ = pipe
    events, codes = JobEvents(stream, "a", 1), []
    events.emit(event)
    events.leave(codes.append)
    assert codes == []


def test_it_is_noticed_when_nobody_reads_any_more(pipe):
    stream, lines, lost = pipe
    lines.close()
    JobEvents(stream, "a", 1).emit("note")
    assert lost.is_set()
