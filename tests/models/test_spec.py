"""The job spec at the edge: every fault in one sentence, unknown fields with the nearest known one."""

import pytest
from pydantic import ValidationError

from celora.models.spec import SYNONYMS, JobSpec, parse_spec
from celora.settings.errors import SettingsError
from celora.tuning.recipe import TARGET_PRESETS, Recipe

GOOD = {"base_model": "base", "dataset": "rows.jsonl"}


def refusal(**fields):
    with pytest.raises(SettingsError) as caught:
        parse_spec({**GOOD, **fields})
    return caught.value.message


def test_the_defaults_are_the_fields():
    recipe = parse_spec(GOOD).recipe()
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.target_modules) == (16, 32, 0.05, "full")
    assert (recipe.epochs, recipe.schedule, recipe.quantization) == (3, "cosine", "nf4")
    assert (recipe.learning_rate, recipe.micro_batch, recipe.gradient_checkpointing) == ("auto", "auto", "auto")
    assert recipe.save_minutes == 10


def test_every_fault_is_told_at_once():
    said = refusal(rank=0, lr=1e-4, epochs="many")
    assert "rank: " in said
    assert "lr is no field; did you mean learning_rate?" in said
    assert "epochs: " in said


@pytest.mark.parametrize(
    ("wrong", "right"), [("lora_rnk", "rank"), ("learning_rat", "learning_rate"), ("evaldataset", "eval_dataset")]
)
def test_a_misspelled_field_names_the_nearest(wrong, right):
    assert f"{wrong} is no field; did you mean {right}?" in refusal(**{wrong: 1})


def test_every_synonym_leads_to_a_field_that_exists():
    assert set(SYNONYMS.values()) - {"priority"} <= set(JobSpec.model_fields)
    assert not set(SYNONYMS) & set(JobSpec.model_fields)


def test_what_is_missing_is_named():
    with pytest.raises(SettingsError, match=r"base_model is missing; dataset is missing"):
        parse_spec({})


@pytest.mark.parametrize("preset", TARGET_PRESETS)
def test_target_presets_and_lists_are_taken(preset):
    assert parse_spec({**GOOD, "target_modules": preset}).target_modules == preset
    assert parse_spec({**GOOD, "target_modules": ["q_proj"]}).target_modules == ["q_proj"]


def test_an_unknown_preset_names_those_that_exist():
    assert "use one of minimal, attention, full, all-linear" in refusal(target_modules="everything")


@pytest.mark.parametrize(
    "fields",
    [
        {"micro_batch": 4, "accumulation": 2, "effective_batch": 16},
        {"micro_batch": 3, "effective_batch": 16},
        {"accumulation": 3, "effective_batch": 16},
    ],
)
def test_a_batch_that_does_not_add_up_is_refused(fields):
    assert "effective_batch 16" in refusal(**fields)


def test_several_held_out_sets_are_named():
    assert parse_spec({**GOOD, "eval_dataset": {"a": "x", "b": "y"}}).eval_dataset == {"a": "x", "b": "y"}
    assert "names no held-out rows" in refusal(eval_dataset={})


def test_a_recipe_does_not_change():
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.rank = 3
