"""Answers to held-out prompts while a run trains."""

import threading

import pytest

from celora.tuning.failures import Situation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


def test_samples_made_in_one_batch_are_those_made_one_by_one(make_request):
    from celora.tuning.training.run import Run

    request = make_request(max_steps=1)
    engine = Run(request, lambda *_, **__: None, threading.Event(), Situation("cpu")).engine
    together, prompts, alone = engine.samples(), engine._prompts, []
    assert len({len(row["prompt_tokens"]) for row in prompts}) > 1  # so one of them is padded
    for row in prompts:
        engine._prompts = [row]
        alone += engine.samples()
    engine.close()
    assert together == alone
