"""Requests and events: every request is known by its op, nothing unknown passes, an event is one line of JSON."""

import json
import math

import pytest
from pydantic import ValidationError

from celora.tuning.protocol import (
    EvaluateRequest,
    GenerateRequest,
    IndexRequest,
    MergeRequest,
    PrepareRequest,
    TrainRequest,
    event_line,
    parse_request,
)

COMMON = {"job": "j", "attempt": 1, "cache_dir": "/cache"}
BASE = {"source": "tiny", "kind": "folder", "name": "tiny", "revision": "r", "parameters": 1, "context_tokens": 8,
        "model_type": "llama"}  # fmt: skip
RESOLVED = {"micro_batch": 1, "accumulation": 1, "effective_batch": 1, "learning_rate": 0.1, "max_length": 8,
            "gradient_checkpointing": False, "optimizer": "adamw", "compute_dtype": "float32"}  # fmt: skip
PREPARE = {"base_model": "tiny", "dataset": "/d", "recipe": {}, "seed": 1, "out_dir": "/o"}
REQUESTS = {
    "prepare": (PrepareRequest, PREPARE),
    "check": (PrepareRequest, PREPARE),
    "index": (IndexRequest, {"dataset": "/d", "out_file": "/o"}),
    "train": (TrainRequest, {"base": BASE, "prepared_dir": "/p", "recipe": {}, "seed": 1, "out_dir": "/o"}),
    "evaluate": (EvaluateRequest, {"base": BASE, "prepared_dir": "/p", "adapter_dir": "/a", "recipe": RESOLVED,
                                   "metrics": [], "out_dir": "/o"}),
    "generate": (GenerateRequest, {"base": BASE, "prompts": ["q"]}),
    "merge": (MergeRequest, {"base": BASE, "adapter_dir": "/a", "out_dir": "/o"}),
}  # fmt: skip


def line(op, **changes):
    return json.dumps({"op": op, **COMMON, **REQUESTS[op][1], **changes})


@pytest.mark.parametrize("op", REQUESTS)
def test_a_request_is_known_by_its_op_and_survives_the_way(op):
    request = parse_request(line(op))
    assert (type(request), request.op, request.job, request.attempt) == (REQUESTS[op][0], op, "j", 1)
    assert parse_request(request.model_dump_json().encode()) == request


@pytest.mark.parametrize("op", REQUESTS)
@pytest.mark.parametrize("change", [{"unknown": 1}, {"attempt": "first"}, {"cache_dir": None}])
def test_a_request_with_an_unknown_or_wrong_field_is_refused(op, change):
    with pytest.raises(ValidationError):
        parse_request(line(op, **change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", json.dumps({"op": "format", **COMMON})])
def test_a_line_that_is_no_request_is_refused(text):
    with pytest.raises(ValidationError):
        parse_request(text)


def test_a_request_cannot_be_changed():
    with pytest.raises(ValidationError):
        parse_request(line("merge")).job = "other"


@pytest.mark.parametrize(
    ("side", "good"),
    [("champion", True), ("rival_0", True), ("", False), ("Rival", False), ("../x", False), ("a" * 33, False)],
)
def test_a_side_can_name_a_field_and_a_file(side, good):
    def parse():
        return parse_request(line("evaluate", rivals=[{"side": side, "adapter_dir": "/a"}]))

    if good:
        assert parse().rivals[0].side == side
    else:
        with pytest.raises(ValidationError):
            parse()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("two\nlines\r\n", "two\nlines\r\n"),
        ("line \u2028 separator", "line \u2028 separator"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ud83d", "\N{REPLACEMENT CHARACTER}"),
        (math.nan, None),
        ([math.inf, 1.5], [None, 1.5]),
        ({"é": (1, None)}, {"é": [1, None]}),
    ],
)
def test_an_event_is_one_line_that_every_reader_takes(given, found):
    made = event_line("note", job="j", attempt=2, data=given)
    assert made.endswith(b"\n")
    assert made.count(b"\n") == 1
    assert json.loads(made) == {"v": 1, "event": "note", "job": "j", "attempt": 2, "data": found}
