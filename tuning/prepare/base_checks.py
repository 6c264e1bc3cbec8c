"""Checks a base against a job before a GPU is held: target modules, embedding, weights that stay unquantized.

The headers of the base's files give the answer if they can. If they leave a doubt, the model is made without weights
and an adapter is attached to it, which takes the seconds of importing torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import BadBaseError, SettingsError
from ..adapters.targets import Targets, refused_by_peft, resolve_targets
from ..bases.layout import Kept, Layout
from ..protocol import Base, PrepareRequest
from ..recipe import Recipe

DEFAULT_MAX_LENGTH = 2048
WEIGHT_BYTES = 2
"""Bytes of a weight that stays unquantized, in the compute dtype of GPUs."""
SHOWN = 3


def check_targets(recipe: Recipe, base: Base, folder: Path, layout: Layout, *, code: bool) -> Targets:
    """Refuse target modules that the base does not have, or that PEFT does not adapt on the base.

    Returns the names of the layers and experts that the recipe adapts.

    Args:
        recipe: The recipe as a caller gave it.
        base: The resolved base.
        folder: The folder of the base.
        layout: The layout of the base's weights, from their headers.
        code: True if the base's own code may run.

    Raises:
        SettingsError: The target modules do not fit; the message names those that exist.
        BaseModelError: transformers does not know the model.
    """
    try:
        targets = resolve_targets(recipe.target_modules, layout.linear_names)
    except SettingsError:
        targets = Targets([], [])  # the loaded model may name its layers differently
    if targets.layers and not layout.has_experts and not refused_by_peft(base.model_type):
        return targets
    from ..adapters.lora import try_targets  # noqa: PLC0415  (torch takes seconds to import)

    return try_targets(recipe, folder, code=code)


def check_tokens(largest: int, tokenizer: Any, layout: Layout, base: Base) -> None:
    """Refuse rows with a token that the base has no embedding for.

    Args:
        largest: The largest token id of the rows, or of what a template writes.
        tokenizer: The tokenizer of the base.
        layout: The layout of the base's weights, from their headers.
        base: The resolved base.

    Raises:
        BadBaseError: The token lies beyond the embedding; the message names it.
    """
    rows = layout.embedding_rows
    if rows is None or largest < rows:
        return
    name = tokenizer.convert_ids_to_tokens(largest)
    raise BadBaseError(
        f"the tokenizer of {base.name} has {len(tokenizer)} tokens, and the base has {rows} embedding rows: the rows "
        f"need token {largest} ({name}), which the base does not have.",
        hint="Use a base whose embedding was resized for these tokens, or another chat template: --template alpaca.",
    )


def unquantized_facts(recipe: Recipe, layout: Layout) -> list[dict[str, Any]]:
    """List for the receipt the weights that stay in 16 bits although the recipe quantizes, the largest first."""
    if recipe.quantization == "none":
        return []
    return [
        {
            "name": kept.name,
            "tensors": kept.count,
            "parameters": kept.parameters,
            "bytes": kept.parameters * WEIGHT_BYTES,
            "adapted": kept.adapted,
        }
        for kept in layout.kept()
    ]


def kept_warnings(recipe: Recipe, layout: Layout) -> Iterator[str]:
    """Yield a sentence about the experts, and one about layers that 4 bits can't hold."""
    kept, stays = layout.kept(), recipe.quantization != "none"
    experts = [each for each in kept if each.expert]
    layers = [each for each in kept if not each.expert]
    size = f"{_size(experts)} in 16 bit: {_names(experts)}"
    if experts and not layout.adapts_experts:
        stored = "are kept in 16 bit and are not adapted" if stays else "are not adapted"
        yield f"the experts ({size}) {stored}; the adapter changes other layers"
    elif experts and stays:
        yield f"the experts ({size}) are kept in 16 bit and are adapted, each with matrices of its own"
    if layers and stays:
        count = sum(each.count for each in layers)
        yield f"{count} layers stay in 16 bit ({_size(layers)}), since their sides do not fit 4 bits: {_names(layers)}"


def _size(kept: list[Kept]) -> str:
    return f"{sum(each.parameters for each in kept) * WEIGHT_BYTES / 2**30:.3g} GiB"


def _names(kept: list[Kept]) -> str:
    shown = ", ".join(each.name for each in kept[:SHOWN])
    return shown if len(kept) <= SHOWN else f"{shown} and {len(kept) - SHOWN} more"


def length_in_force(request: PrepareRequest, base: Base) -> int:
    """Return the maximum length of a row in tokens; of ``auto``, the context of the base up to 2,048.

    Raises:
        SettingsError: The base cannot read that many tokens.
    """
    asked = request.recipe.max_length
    if asked == "auto":
        return min(base.context_tokens, DEFAULT_MAX_LENGTH)
    if asked > base.context_tokens:
        raise SettingsError(
            f"max_length {asked} is more than the {base.context_tokens} tokens that {base.name} can read.",
            hint=f"Set max_length to {base.context_tokens} or less, or leave it away.",
        )
    return asked
