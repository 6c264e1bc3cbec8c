"""Resolves the open settings of a training run: plain arithmetic, no torch.

Every ``auto`` of a recipe gets a number here, and a sentence that names the rule behind it. The device's memory decides
micro batch and gradient checkpointing (memory.py); size and quantization of the base decide the learning rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..recipe import KTO_LEAST_BATCH, PAIRED, Recipe, ResolvedRecipe
from .memory import GIB, Dtype, memory_bytes

DEFAULT_BATCH = 16
DEFAULT_STEPS = 30
CPU_MICRO_BATCH = 4
UNKNOWN_MEMORY_BYTES = 16 * GIB
MEMORY_SHARE = 0.9
SMALL_MODEL = (200e6, 1e-3)
LARGE_MODEL = (3e9, {"nf4": 2e-4, "none": 1e-4})
"""Learning rates: bases up to the first size take the first rate, from the second size on the second; between them the
rate falls in a straight line of logarithms. 2e-4 for 4-bit and 1e-4 for 16-bit LoRA are the field's; models of 135 M
and less need 1e-3 to learn a format in one pass over a few hundred rows."""


COMPARING = frozenset({"dpo", "kto"})
COMPARED_SHARE = 0.1
"""Learning rate of training against a reference, as a share of the supervised one; the field takes 1e-6 to 5e-5 there
(DPO, arXiv 2305.18290, appendix B; Zephyr, arXiv 2310.16944), and about ten times that with LoRA."""

HIGHEST_LEARNING_RATE = 0.1
"""The rate above which no factor leads; a training diverges long before."""


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
    compute_dtype: Dtype,
    longest_row_tokens: int | None = None,
) -> ResolvedRecipe:
    """Give every ``auto`` of a recipe its value, and name the rule.

    Args:
        recipe: The recipe as the job gave it.
        parameters: Number of weights of the base.
        model_config: The base's ``config.json``.
        train_rows: Rows (after packing: sequences) of the training set.
        train_tokens: Tokens of the training set.
        max_length: The rows' maximum length that ``prepare`` used, tokens.
        device: ``cpu`` or ``cuda``.
        device_memory_bytes: Memory that the job may plan with; 0 where it is unknown.
        compute_dtype: Dtype in which the device computes (``device.compute_dtype``).
        longest_row_tokens: The longest training row; four times the mean unless given.
    """
    rules: dict[str, str] = {}
    rules["compute_dtype"] = f"{compute_dtype}: what this {device} device computes well"
    learning_rate = _rate(recipe, parameters, rules)
    if recipe.max_length == "auto":
        rules["max_length"] = f"{max_length}: the smaller of the model's context and 2048"
    optimizer = _optimizer(recipe, device, rules)
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
            compute_dtype=compute_dtype,
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
            "dropout": _dropout(recipe, rules),
            "compute_dtype": compute_dtype,
            "rules": rules,
        }
    )


def _rate(recipe: Recipe, parameters: int, rules: dict[str, str]) -> float:
    """Return the learning rate: the given one, or that of the base's size and the method, times the given factor."""
    learning_rate = recipe.learning_rate
    if learning_rate == "auto":
        learning_rate, rules["learning_rate"] = _learning_rate(recipe.quantization, parameters)
        if recipe.method in COMPARING:
            supervised, learning_rate = learning_rate, float(f"{learning_rate * COMPARED_SHARE:.2g}")
            rules["learning_rate"] = f"{learning_rate:g}: for {recipe.method} a tenth of {supervised:g}"
    return _multiplied(recipe, learning_rate, rules)


def _optimizer(recipe: Recipe, device: str, rules: dict[str, str]) -> str:
    if recipe.optimizer != "auto":
        return recipe.optimizer
    optimizer = "paged_adamw_8bit" if device == "cuda" else "adamw"
    rules["optimizer"] = f"{optimizer}: paged 8-bit AdamW on CUDA, AdamW elsewhere"
    return optimizer


@dataclass(frozen=True, kw_only=True)
class _Batch:
    micro: int
    accumulation: int
    checkpointing: bool
    target: int
    fits: bool

    def rules(self, recipe: Recipe, memory: str, device: str) -> dict[str, str]:
        """Return in words the rule of each value that was open."""
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
    """Choose micro batch, accumulation and checkpointing: the first pair that fits, checkpointing tried last."""
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
    if recipe.method == "kto":
        fewest = KTO_LEAST_BATCH if recipe.accumulation else target
        choices = [size for size in choices if size >= KTO_LEAST_BATCH] or [fewest]
    auto = recipe.gradient_checkpointing == "auto"
    modes = [False, True] if auto else [recipe.gradient_checkpointing is True]
    found = next(((size, mode) for mode in modes for size in choices if fits(size, mode)), None)
    micro, checkpointing = found or (choices[-1], modes[-1])
    accumulation = recipe.accumulation or max(1, target // micro)
    return _Batch(
        micro=micro, accumulation=accumulation, checkpointing=checkpointing, target=target, fits=found is not None
    )


def _dropout(recipe: Recipe, rules: dict[str, str]) -> float:
    """Return the dropout in force: none from preferences, where TRL switches dropout off too (disable_dropout)."""
    if recipe.method == "sft" or recipe.dropout == 0:
        return recipe.dropout
    rules["dropout"] = f"0: {recipe.method} compares the model with its reference, which dropout would blur"
    return 0.0


def _default_batch(recipe: Recipe, rows: int) -> int:
    """Halve 16 until the run has about 30 optimizer steps: a tiny dataset needs many updates more than smooth ones."""
    if recipe.max_steps:
        return max(KTO_LEAST_BATCH if recipe.method == "kto" else 1, min(DEFAULT_BATCH, rows))
    batch, least = DEFAULT_BATCH, KTO_LEAST_BATCH if recipe.method == "kto" else 1
    while batch > least and rows * recipe.epochs / batch < DEFAULT_STEPS:
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


def _multiplied(recipe: Recipe, learning_rate: float, rules: dict[str, str]) -> float:
    """Return the learning rate times the recipe's factor; a rate that was given as a number has no factor."""
    factor = recipe.learning_rate_multiplier
    if recipe.learning_rate != "auto" or factor == 1:
        return learning_rate
    rules["learning_rate"] += f"; times {factor:g}, at most {HIGHEST_LEARNING_RATE:g}"
    return min(learning_rate * factor, HIGHEST_LEARNING_RATE)


def _longest(recipe: Recipe, rows: int, tokens: int, max_length: int, longest: int | None) -> int:
    if recipe.packing or not rows:
        return max_length
    most = 2 * max_length if recipe.method in PAIRED else max_length  # a pair goes through a pass with both answers
    return min(most, longest or 4 * math.ceil(tokens / rows))
