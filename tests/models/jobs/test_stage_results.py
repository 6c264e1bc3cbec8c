"""The results of stages are read through the models that the trainer wrote them with."""

import pytest
from pydantic import ValidationError

from celora.models.jobs.stage_results import Trained, limits_of, recipe_of, trained_of
from celora.models.tables import Job
from celora.tuning.recipe import Adjusted

RESOLVED = {"micro_batch": 8, "accumulation": 2, "effective_batch": 16, "learning_rate": 1e-4, "max_length": 64,
            "gradient_checkpointing": False, "optimizer": "adamw", "compute_dtype": "float32"}  # fmt: skip


def test_a_job_that_was_not_trained_has_no_result():
    with pytest.raises(ValidationError):
        trained_of(Job(result=None))


def test_a_result_keeps_the_place_of_its_adapter():
    assert Trained.read(None) is None
    facts = {"resolved": RESOLVED, "steps": 3, "planned_steps": 3, "train_loss": 0.5, "eval_loss": None,
             "trainable_parameters": 2, "total_parameters": 9, "tokens": 7, "train_s": 1.0,
             "adapter_dir": "/a"}  # fmt: skip
    trained = trained_of(Job(result={**facts, "adapter_uri": "file:///a", "of a newer version": 1}))
    assert (trained.adapter_uri, trained.steps) == ("file:///a", 3)


def test_the_recipe_keeps_the_limits_that_a_devices_memory_forced():
    assert limits_of(Job()) == Adjusted()
    newer = {"of a newer version": 1}
    job = Job(resolved={**RESOLVED, **newer}, adjusted={"micro_batch": 4, "why": "out of memory", **newer})
    assert (recipe_of(job).micro_batch, recipe_of(job).effective_batch) == (4, 16)
