"""The job spec at the edge: every fault in one sentence, unknown fields with the nearest known one."""

import pytest
from pydantic import ValidationError

from celora.errors import SettingsError
from celora.models.spec import JobSpec, parse_spec, stored_spec
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


def test_null_means_unset_for_every_field_that_has_a_default():
    fields = {name: field for name, field in JobSpec.model_fields.items() if not field.is_required()}
    spec = parse_spec({**GOOD, **dict.fromkeys(fields)})
    assert spec == parse_spec(GOOD)
    assert "dataset is missing" in refusal(dataset=None)
    assert "lr is no field" in refusal(lr=None)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tenant": 7}, 'tenant: Input should be a valid string; 7 is a number: write "7"'),
        ({"tenant": ".."}, "tenant: a name of dots alone is no tenant's"),
        ({"user": True}, 'true is a switch: write "true"'),
        ({"metadata": {"run": 3.5}}, 'metadata.run: Input should be a valid string; 3.5 is a number: write "3.5"'),
        ({"rank": "many"}, 'rank: Input should be a valid integer, unable to parse string as an integer, not "many"'),
        ({"schedule": "cos"}, 'not "cos"'),
        ({"epochs": -1}, "epochs: Input should be greater than 0, not -1"),
    ],
)
def test_a_wrong_value_is_shown(fields, told):
    assert told in refusal(**fields)


def test_a_secret_in_a_wrong_place_is_not_shown():
    secret = "hf_" + "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA1b"
    assert secret not in refusal(gpu=secret)


def test_a_label_has_a_length():
    assert parse_spec({**GOOD, "metadata": {"n" * 64: "v" * 512}}).metadata
    assert "the value of the label 'note' has 600 characters, and may have 512" in refusal(metadata={"note": "x" * 600})
    assert "the name of the label 'aaa" in refusal(metadata={"a" * 65: ""})


@pytest.mark.parametrize("name", ["max_steps", "micro_batch", "max_length", "eval_max_new_tokens", "warmup_steps"])
def test_a_number_that_no_column_holds_is_refused(name):
    assert getattr(parse_spec({**GOOD, name: 2**31 - 1}), name) == 2**31 - 1
    for number in (2**31, 10**399):
        assert f"{name}: the largest number is 2,147,483,647" in refusal(**{name: number})


def test_a_longer_label_of_an_earlier_version_stays_readable():
    assert JobSpec.model_validate({**GOOD, "metadata": {"note": "x" * 3000}}).metadata


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_steps": 5, "warmup_steps": 5}, "5 steps of warm-up do not end within max_steps 5"),
        ({"max_steps": 5, "warmup_steps": 300}, "300 steps of warm-up do not end"),
        ({"early_stopping_patience": 2, "eval_fraction": 0}, "early_stopping_patience: it needs held-out rows"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, told):
    assert told in refusal(**fields)
    assert JobSpec.model_validate({**GOOD, **fields})  # the record's own stay readable


def test_a_warm_up_within_the_run_and_early_stopping_on_held_out_rows_are_taken():
    assert parse_spec({**GOOD, "max_steps": 5, "warmup_steps": 4}).warmup_steps == 4
    held_out = {"early_stopping_patience": 1, "eval_fraction": 0, "eval_dataset": "other.jsonl"}
    assert parse_spec({**GOOD, **held_out}).early_stopping_patience == 1


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


def test_a_spec_with_fifty_thousand_faults_is_refused_with_the_first_and_their_number():
    said = refusal(**{f"field{number}{'x' * 1000}": 1 for number in range(50_000)})
    assert said.endswith("; and 49,980 more.")
    assert len(said) < 5000


def test_a_refusal_that_ends_with_a_sentence_gets_no_second_full_stop():
    with pytest.raises(SettingsError) as caught:
        parse_spec({"base_model": "tiny", "dataset": "/data/rows.jsonl", "labels": ["Big Memory"]})
    assert "can't be a label" in caught.value.message
    assert caught.value.message.endswith("first.")


def test_a_field_of_a_later_version_is_ignored_in_the_record_and_refused_at_submit():
    gate = {"metric": "exact_match", "of_a_later_version": 1}
    later = {**GOOD, "of_a_later_version": True, "champion": "best", "eval_dataset": "held", "gate": gate}
    read = stored_spec(later)
    assert read.gate is not None
    assert read == parse_spec({**GOOD, "champion": "best", "eval_dataset": "held", "gate": {"metric": "exact_match"}})
    assert "of_a_later_version is no field" in refusal(**{**later, "gate": None})
    assert "of_a_later_version is no field of a gate" in refusal(**{**later, "of_a_later_version": None})
