"""Stages as a process runs them: what they report, and the parts that depend on the process."""

import importlib.util
import json
import os
import sys
import threading

import pytest

from celora.errors import DeviceError
from celora.tuning.protocol import IndexRequest
from celora.tuning.trainer.events import EventStream, JobEvents
from celora.tuning.trainer.stages import Circumstances, answer_request, hide_trackers


@pytest.fixture
def reported(monkeypatch):
    """Events of a job, and a function that returns those written so far."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")  # which a stage would set
    read_end, write_end = os.pipe()
    lines = os.fdopen(read_end)
    stream = EventStream(write_end, lambda: None)

    def seen():
        stream.close()
        return [json.loads(line) for line in lines]

    yield stream, seen
    lines.close()


@pytest.fixture
def request_(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    fields = {"job": "j", "attempt": 1, "cache_dir": str(tmp_path), "dataset": str(rows)}
    return IndexRequest(**fields, out_file=str(tmp_path / "hashes"))


def test_the_process_has_the_last_word_before_a_run_is_done(reported, request_):
    stream, seen = reported

    def broken():
        raise DeviceError("The weights changed.")

    events = JobEvents(stream, "j", 1)
    assert answer_request(request_, events, threading.Event(), Circumstances(before_done=broken)) == 70
    assert [event["event"] for event in seen()][-1] == "failed"
    assert events.failed_as is DeviceError


def test_a_stage_without_step_boundaries_is_unwound_at_its_next_event(reported, request_):
    stream, seen = reported
    stop = threading.Event()
    stop.set()
    events = JobEvents(stream, "j", 1, interrupt=stop)
    done = Circumstances(before_done=lambda: events.emit("phase", phase="checking", done=None, total=None))
    assert answer_request(request_, events, stop, done) == 75
    assert [event["event"] for event in seen()] == ["drained"]


def test_a_tracker_that_a_run_does_not_report_to_is_as_if_it_were_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # so that the test's end restores what was there
    del sys.modules["wandb"]
    hide_trackers(["wandb", "tensorboard"])
    assert "wandb" not in sys.modules
    hide_trackers(["tensorboard"])
    assert importlib.util.find_spec("wandb") is None
    with pytest.raises(ImportError):
        importlib.import_module("wandb")
