"""What a training run needs and how its open settings are decided: plain arithmetic, no torch.

Every ``auto`` of a recipe gets a number here, and a sentence that says which rule gave it. The device's memory decides
micro batch and gradient checkpointing (memory.py); size and quantization of the base decide the learning rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .memory import GIB, Dtype, lora_parameters, memory_bytes
from .recipe import Recipe, ResolvedRecipe

__all__ = ["lora_parameters", "memory_bytes", "planned_steps", "resolve_recipe"]

DEFAULT_BATCH = 16
DEFAULT_STEPS = 30
CPU_MICRO_BATCH = 4
UNKNOWN_MEMORY_BYTES = 16 * GIB
MEMORY_SHARE = 0.9
SMALL_MODEL = (200e6, 1e-3)
LARGE_MODEL = (3e9, {"nf4": 2e-4, "none": 1e-4})
"""Learning rates: at most this many parameters take the first, at least so many the second; between them the rate
falls in a straight line of logarithms. 2e-4 for 4-bit and 1e-4 for 16-bit LoRA are the field's; 1e-3 is what models
of 135 M and less need to learn a format in one pass over a few hundred rows."""


def resolve_recipe(
    recipe: Recipe,
    *,
    parameters: int,
    model_config: dict[str, Any],
    train_rows: int,
    train_tokens: int,
    max_length: int,
    device: str,
    device_memory_bytes: int,
    compute_dtype: Dtype | None = None,
    longest_row_tokens: int | None = None,
) -> ResolvedRecipe:
    """Give every ``auto`` of a recipe its value, and say by which rule.

    Args:
        recipe: As the job gave it.
        parameters: Number of weights of the base.
        model_config: The base's ``config.json``.
        train_rows: Rows (after packing: sequences) of the training set.
        train_tokens: Tokens of the training set.
        max_length: The rows' maximum length that ``prepare`` used, tokens.
        device: ``cpu`` or ``cuda``.
        device_memory_bytes: Memory that the job may plan with; 0 where it is unknown.
        compute_dtype: What the device computes in; the engine is asked unless given.
        longest_row_tokens: The longest training row; four times the mean unless given.
    """
    rules: dict[str, str] = {}
    dtype = compute_dtype or _engine_dtype(device)
    rules["compute_dtype"] = f"{dtype}: what this {device} device computes well"
    learning_rate = recipe.learning_rate
    if learning_rate == "auto":
        learning_rate, rules["learning_rate"] = _learning_rate(recipe.quantization, parameters)
    if recipe.max_length == "auto":
        rules["max_length"] = f"{max_length}: the smaller of the model's context and 2048"
    optimizer = recipe.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if device == "cuda" else "adamw"
        rules["optimizer"] = f"{optimizer}: paged 8-bit AdamW on CUDA, AdamW elsewhere"
    length = _longest(recipe, train_rows, train_tokens, max_length, longest_row_tokens)
    available = int((device_memory_bytes or UNKNOWN_MEMORY_BYTES) * MEMORY_SHARE)

    def need(micro: int, checkpointing: bool) -> int:  # noqa: FBT001  (two positions of one table)
        return memory_bytes(
            recipe,
            parameters=parameters,
            model_config=model_config,
            length=length,
            device=device,
            micro_batch=micro,
            gradient_checkpointing=checkpointing,
            compute_dtype=dtype,
        )

    batch = _batch(recipe, train_rows, device, lambda micro, checkpointing: need(micro, checkpointing) <= available)
    memory = (
        f"about {need(batch.micro, batch.checkpointing) / GIB:.1f} of {available / GIB:.1f} GiB for rows of {length} "
        f"tokens"
    )
    rules |= batch.rules(recipe, memory, device)
    return ResolvedRecipe.model_validate(
        {
            **recipe.model_dump(),
            "micro_batch": batch.micro,
            "accumulation": batch.accumulation,
            "effective_batch": batch.micro * batch.accumulation,
            "learning_rate": learning_rate,
            "max_length": max_length,
            "gradient_checkpointing": batch.checkpointing,
            "optimizer": optimizer,
            "compute_dtype": dtype,
            "rules": rules,
        }
    )


def planned_steps(train_rows: int, recipe: ResolvedRecipe) -> int:
    """Optimizer steps of a run: ``max_steps``, or the epochs' (a last, smaller batch counts as one)."""
    if recipe.max_steps:
        return recipe.max_steps
    micro_batches = math.ceil(train_rows / recipe.micro_batch)
    return math.ceil(recipe.epochs * max(1, math.ceil(micro_batches / recipe.accumulation)))


@dataclass(frozen=True, kw_only=True)
class _Batch:
    micro: int
    accumulation: int
    checkpointing: bool
    target: int
    fits: bool

    def rules(self, recipe: Recipe, memory: str, device: str) -> dict[str, str]:
        """The rule of each value that was open, in words."""
        rules: dict[str, str] = {}
        effective = self.micro * self.accumulation
        if recipe.effective_batch is None and (recipe.accumulation is None or recipe.micro_batch == "auto"):
            rules["effective_batch"] = f"{effective}: {DEFAULT_BATCH}" + (
                "" if effective == DEFAULT_BATCH else f", or less where fewer than {DEFAULT_STEPS} steps would be left"
            )
        limit = f", at most {CPU_MICRO_BATCH} on a CPU" if device == "cpu" else ""
        short = "" if self.fits else "; by this estimate it does not fit"
        if recipe.micro_batch == "auto":
            rules["micro_batch"] = f"{self.micro}: the most that fits{limit} ({memory}){short}"
        if recipe.gradient_checkpointing == "auto":
            why = "activations would not fit otherwise" if self.checkpointing else "activations fit without"
            rules["gradient_checkpointing"] = f"{'on' if self.checkpointing else 'off'}: {why} ({memory}){short}"
        return rules


def _batch(recipe: Recipe, rows: int, device: str, fits: Callable[[int, bool], bool]) -> _Batch:
    """Micro batch, accumulation and checkpointing: the first pair that fits, without checkpointing where possible."""
    target = recipe.effective_batch or _default_batch(recipe, rows)
    if recipe.micro_batch != "auto":
        choices = [recipe.micro_batch]
    elif recipe.accumulation:
        choices = [max(1, target // recipe.accumulation)]
        if not recipe.effective_batch:
            choices = list(range(choices[0], 0, -1))
    else:
        most = CPU_MICRO_BATCH if device == "cpu" else target
        choices = [size for size in range(min(most, target), 0, -1) if target % size == 0]
    auto = recipe.gradient_checkpointing == "auto"
    modes = [False, True] if auto else [recipe.gradient_checkpointing is True]
    found = next(((size, mode) for mode in modes for size in choices if fits(size, mode)), None)
    micro, checkpointing = found or (choices[-1], modes[-1])
    accumulation = recipe.accumulation or max(1, target // micro)
    return _Batch(
        micro=micro, accumulation=accumulation, checkpointing=checkpointing, target=target, fits=found is not None
    )


def _default_batch(recipe: Recipe, rows: int) -> int:
    """16, halved until the run has about 30 optimizer steps: a tiny dataset needs updates more than smooth ones."""
    if recipe.max_steps:
        return max(1, min(DEFAULT_BATCH, rows))
    batch = DEFAULT_BATCH
    while batch > 1 and rows * recipe.epochs / batch < DEFAULT_STEPS:
        batch //= 2
    return batch


def _learning_rate(quantization: Literal["nf4", "none"], parameters: int) -> tuple[float, str]:
    small, most = SMALL_MODEL
    large, rates = LARGE_MODEL
    least = rates[quantization]
    kind = "4-bit" if quantization == "nf4" else "16-bit"
    size = f"{parameters / 1e6:,.1f} M parameters"
    if parameters <= small:
        return most, f"{most:g}: {size}, and models of at most {small / 1e6:.0f} M take {most:g}"
    if parameters >= large:
        return least, f"{least:g}: {kind} LoRA on {size}"
    share = math.log(parameters / small) / math.log(large / small)
    rate = float(f"{most * (least / most) ** share:.2g}")
    return rate, f"{rate:g}: {kind} LoRA on {size}, between {most:g} at {small / 1e6:.0f} M and {least:g} at 3 B"


def _longest(recipe: Recipe, rows: int, tokens: int, max_length: int, longest: int | None) -> int:
    if recipe.packing or not rows:
        return max_length
    return min(max_length, longest or 4 * math.ceil(tokens / rows))


def _engine_dtype(device: str) -> Dtype:
    from .engine import compute_dtype  # noqa: PLC0415  (the engine's run imports this module)

    return compute_dtype(device)
