"""An engine leaves the process as it was, so that several can take turns in it."""

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


def run(request, record):
    from celora.tuning.training.run import train  # imports torch

    return train(request, record, record.stop)


def losses(record):
    return [event["loss"] for event in record.of("progress")]


def loaded(request, record):
    from celora.tuning.failures import Situation
    from celora.tuning.training.run import Run  # imports torch

    return Run(request, record, record.stop, Situation("cpu"))


def test_two_runs_of_other_precision_can_take_turns(make_request, recorder):
    requests = {
        dtype: make_request(out=dtype, max_steps=4, dropout=0.1, compute_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }
    alone = {dtype: recorder() for dtype in requests}
    for dtype, request in requests.items():
        run(request, alone[dtype])
    in_turns = {dtype: recorder() for dtype in requests}
    runs = [loaded(request, in_turns[dtype]) for dtype, request in requests.items()]
    for one in runs:
        one.begin()
    for _ in range(4):
        for one in runs:
            one.advance()
    assert losses(alone["float32"]) != losses(alone["bfloat16"])
    for dtype in requests:
        assert losses(in_turns[dtype]) == losses(alone[dtype])
