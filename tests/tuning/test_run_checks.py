"""Settings of a run that cannot do what they say, found before and after the rows are counted."""

import pytest

from celora.tuning.recipe import Recipe
from celora.tuning.run_checks import run_warnings


def warned(*, steps=10, sequences=40, batch=4, held_out=True, **recipe):
    return list(
        run_warnings(
            Recipe(**recipe), planned_steps=steps, sequences=sequences, effective_batch=batch, held_out=held_out
        )
    )


def test_an_ordinary_run_is_warned_of_nothing():
    assert warned() == []
    assert warned(warmup_steps=9, eval_steps=2, early_stopping_patience=2, effective_batch=4) == []
    assert warned(held_out=False, eval_steps=100) == []


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"warmup_steps": 10}, "warmup_steps 10 is not below the run's 10 steps"),
        ({"warmup_steps": 3, "steps": 1}, "not below the run's 1 step:"),
        ({"early_stopping_patience": 1, "held_out": False}, "early_stopping_patience has no effect"),
        ({"early_stopping_patience": 3}, "it is evaluated 4 times in its 10 steps"),
        ({"early_stopping_patience": 1, "eval_steps": 6}, "it is evaluated 2 times"),
        ({"eval_steps": 11}, "eval_steps 11 is more than the run's 10 steps"),
        ({"effective_batch": 64, "batch": 64}, "the effective batch of 64 is more than the 40 training rows"),
        ({"epochs": 0.05, "sequences": 40}, "epochs 0.05 of 40 training rows is less than one optimizer step"),
        ({"epochs": 0.5, "sequences": 1, "batch": 1}, "less than one optimizer step"),
    ],
)
def test_each_setting_without_effect_is_named(recipe, told):
    (message,) = warned(**recipe)
    assert told in message


def test_a_batch_that_celora_chose_itself_is_no_warning():
    assert warned(sequences=8, batch=16) == []
