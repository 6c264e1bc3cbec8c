import math

import pytest

from celora.tuning.recipe import Recipe, ResolvedRecipe, epoch_ends, evaluation_steps, evaluations_of, planned_steps


def resolved(**fields):
    more = {"effective_batch": 16, "learning_rate": 1e-3, "max_length": 64, "gradient_checkpointing": False}
    plain = Recipe(micro_batch=4, accumulation=4, **fields).model_dump()
    return ResolvedRecipe(**{**plain, **more, "optimizer": "adamw", "compute_dtype": "float32"})


def test_planned_steps_count_a_last_smaller_batch_and_parts_of_an_epoch():
    assert [planned_steps(rows, resolved(epochs=1)) for rows in (1, 16, 17, 1100)] == [1, 1, 2, 69]
    assert planned_steps(1100, resolved(epochs=0.5)) == math.ceil(69 / 2)
    assert planned_steps(1100, resolved(max_steps=7)) == 7


@pytest.mark.parametrize(
    ("planned", "every", "steps"),
    [(100, None, [25, 50, 75, 100]), (6, None, [2, 3, 5, 6]), (2, None, [1, 2]), (10, 4, [4, 8, 10]), (3, 50, [3])],
)
def test_evaluations_are_four_a_run_or_as_set_and_the_last_step_is_one(planned, every, steps):
    assert evaluation_steps(planned, every) == steps


@pytest.mark.parametrize("rows", [1, 16, 33, 40, 1100])
@pytest.mark.parametrize("epochs", [1, 2, 2.5, 3, 7])
def test_the_ends_of_epochs_are_where_a_whole_pass_over_the_rows_ends(rows, epochs):
    recipe = resolved(epochs=epochs)
    steps = planned_steps(rows, resolved(epochs=1))
    planned = planned_steps(rows, recipe)
    assert epoch_ends(planned, recipe) == sorted({*(steps * epoch for epoch in range(1, int(epochs) + 1)), planned})


def test_a_run_with_checkpoints_of_epochs_is_evaluated_there_and_where_it_was_asked_for():
    assert evaluations_of(9, resolved(epochs=3, epoch_checkpoints=True)) == [3, 6, 9]
    assert evaluations_of(9, resolved(epochs=3, epoch_checkpoints=True, eval_steps=4)) == [3, 4, 6, 8, 9]
    assert evaluations_of(9, resolved(epochs=3)) == evaluation_steps(9, None)
    assert epoch_ends(7, resolved(max_steps=7)) == [7]
    assert epoch_ends(3, resolved(epochs=0.5)) == [3]


def test_tighter_limits_keep_the_effective_batch_and_say_why():
    from celora.tuning.recipe import Adjusted

    recipe = ResolvedRecipe(**{**resolved().model_dump(), "micro_batch": 6, "accumulation": 2, "effective_batch": 12})
    within = recipe.within(Adjusted(micro_batch=5, gradient_checkpointing=True, why="the GPU was full"))
    assert (within.micro_batch, within.accumulation, within.effective_batch) == (4, 3, 12)
    assert within.rules["micro_batch"] == "4: the GPU was full"
    assert within.gradient_checkpointing
    assert recipe.within(Adjusted(micro_batch=8)) is recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batch": 3, "accumulation": 2, "effective_batch": 8}, "3 x accumulation 2 is not effective_batch 8"),
        ({"accumulation": 3, "effective_batch": 8}, "8 is no multiple of accumulation 3"),
        ({"micro_batch": 3, "effective_batch": 8}, "8 is no multiple of micro_batch 3"),
        ({"target_modules": "most"}, "'most' is no preset"),
        ({"target_modules": []}, "an empty list adapts nothing"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_in_words(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": 0}, "beta"),
        ({"beta": 0.2}, "beta: method sft does not read it; write method: dpo or method: kto or method: orpo"),
        ({"method": "kto", "loss_weights": [1]}, "loss_weights: method kto does not read it; write method: dpo"),
        ({"method": "orpo", "loss_type": "sigmoid"}, "loss_type: method orpo does not read it"),
        ({"method": "dpo", "loss_type": "sigmoids"}, "loss_type: 'sigmoids' is no loss of dpo; use sigmoid, hinge"),
        ({"method": "dpo", "loss_type": ["aot"]}, "'aot' is no loss of dpo"),
        ({"method": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "write one weight for each"),
        ({"method": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [-1, 1]}, "must be above 0"),
        ({"method": "dpo", "loss_weights": [0]}, "must be above 0"),
        ({"method": "dpo", "loss_weights": [float("nan")]}, "must be above 0"),
        ({"method": "dpo", "loss_type": ["sigmoid", "sigmoid"]}, "write each loss once"),
        ({"method": "dpo", "loss_type": []}, "an empty list is no loss"),
        ({"method": "dpo", "loss_type": ["exo_pair"]}, "label_smoothing: the loss exo_pair needs it above 0"),
        ({"method": "dpo", "packing": True}, "packing: dpo compares whole answers"),
        ({"method": "dpo", "turns": "each"}, "turns: dpo compares whole answers"),
        ({"method": "dpo", "completion_only": False}, "completion_only: dpo scores the answers alone"),
        ({"method": "kto", "micro_batch": 1}, "micro_batch: kto compares each answer .* set at least 2"),
        ({"method": "kto", "effective_batch": 1}, "effective_batch: kto compares"),
    ],
)
def test_a_setting_that_its_method_cannot_use_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_the_losses_of_a_method_and_their_weights():
    assert Recipe(method="dpo").losses == {"sigmoid": 1.0}
    assert Recipe(method="kto").losses == {"kto": 1.0}
    assert Recipe(method="orpo").losses == {}
    assert Recipe(method="dpo", loss_type=["sigmoid", "sft"], loss_weights=[1, 0.3]).losses == {
        "sigmoid": 1.0,
        "sft": 0.3,
    }


def test_less_memory_leaves_the_micro_batch_of_kto_and_recomputes_activations():
    from celora.tuning.recipe import Adjusted

    limits = Adjusted(micro_batch=2, gradient_checkpointing=True)
    assert resolved(method="dpo").within(limits).micro_batch == 2
    assert resolved(method="kto").within(limits).micro_batch == 4
    assert resolved(method="kto").within(limits).gradient_checkpointing is True
