"""Finds settings of a run that can have no effect.

Some contradictions appear in the settings alone, and a job with such a contradiction is refused at submit. Others
appear when the rows are counted: ``prepare`` then warns, since the same settings may be right for the next version of
the data.
"""

from collections.abc import Iterator

from .recipe import Recipe, evaluations_of


def contradictions(recipe: Recipe, *, held_out: bool) -> Iterator[str]:
    """Yield a sentence for each setting that the other settings make void.

    Args:
        recipe: The recipe as a caller gave it.
        held_out: Whether the job asks for held-out rows.
    """
    if recipe.max_steps and recipe.warmup_steps and recipe.warmup_steps >= recipe.max_steps:
        yield (
            f"warmup_steps: {recipe.warmup_steps} steps of warm-up do not end within max_steps {recipe.max_steps}, so "
            "the learning rate is never reached; set fewer, or leave it away for warmup_ratio"
        )
    if recipe.early_stopping_patience and not held_out:
        yield (
            "early_stopping_patience: it needs held-out rows to measure; give an eval_dataset, or an eval_fraction "
            "above 0"
        )


def run_warnings(
    recipe: Recipe, *, planned_steps: int, sequences: int, effective_batch: int, held_out: bool
) -> Iterator[str]:
    """Yield a sentence for each setting that a run of this many steps makes void.

    Args:
        recipe: The recipe as a caller gave it.
        planned_steps: Optimizer steps of the run.
        sequences: Rows of an epoch, or packed sequences.
        effective_batch: Rows of a step.
        held_out: Whether there are held-out rows.
    """
    if recipe.warmup_steps and recipe.warmup_steps >= planned_steps:
        yield (
            f"warmup_steps {recipe.warmup_steps} is not below the run's {_steps(planned_steps)}: the learning rate is "
            "never reached, and the adapter learns little"
        )
    yield from _batch_warnings(recipe, sequences, effective_batch)
    yield from _saving_warnings(recipe, planned_steps, held_out=held_out)


def _batch_warnings(recipe: Recipe, sequences: int, effective_batch: int) -> Iterator[str]:
    asked = recipe.effective_batch or recipe.accumulation or (recipe.micro_batch != "auto")
    if asked and effective_batch > sequences:
        yield (
            f"the effective batch of {effective_batch} is more than the {sequences} training rows: each step takes "
            "all of them and no more"
        )
    if recipe.max_steps is None and recipe.epochs * sequences < min(effective_batch, sequences):
        yield (
            f"epochs {recipe.epochs:g} of {sequences} training rows is less than one optimizer step; one whole step is "
            "done"
        )


def _saving_warnings(recipe: Recipe, planned_steps: int, *, held_out: bool) -> Iterator[str]:
    patience = recipe.early_stopping_patience
    if patience and not held_out:
        yield "early_stopping_patience has no effect: no rows are held out to measure"
    elif patience and patience >= len(evaluations_of(planned_steps, recipe)) - 1:
        times = len(evaluations_of(planned_steps, recipe))
        yield (
            f"early_stopping_patience {patience} can not end this run early: it is evaluated {times} times in its "
            f"{_steps(planned_steps)}; lower it, or set eval_steps"
        )
    if held_out and recipe.eval_steps and recipe.eval_steps > planned_steps:
        yield f"eval_steps {recipe.eval_steps} is more than the run's {_steps(planned_steps)}: measured at its end"


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"
