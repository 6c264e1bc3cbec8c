"""The recipe in the arguments of TRL's trainers: schedule and warm-up."""

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
]


def run(request, record):
    from celora.tuning.training.run import train  # imports torch

    return train(request, record, record.stop)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 2, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", 0, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 1, [0.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_follows_its_schedule(make_request, recorder, schedule, warmup, expected):
    record = recorder()
    run(make_request(max_steps=5, schedule=schedule, warmup_steps=warmup, learning_rate=0.01), record)
    rates = [event["learning_rate"] / 0.01 for event in record.of("progress")]
    assert rates == pytest.approx(expected, abs=1e-5)
