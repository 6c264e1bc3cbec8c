# pyright: basic
# (torch ships incomplete types)
"""Compares a resumed run with its checkpoint: the settings must be equal, the circumstances may differ.

Settings and data determine a run; a checkpoint of other settings or data is refused. The machine, its libraries and the
division of a batch into passes only determine the way in which the same numbers are computed. Under other circumstances
the run continues to the same last step, with losses that differ by rounding. The run is then no longer exact to the
bit; an event, the result and every later checkpoint report the difference.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...storage.manifest import file_sha256
from .. import device as devices
from ..adapters.package import WEIGHTS
from ..protocol import Emit, PrepareResult, TrainRequest
from ..recipe import PREFERENCE_FIELDS, Recipe, ResolvedRecipe
from . import optimizer_check

PARTS = ("tokens", "mask", "offsets", "labels")
"""Arrays of a prepared set."""

HOW = ("micro_batch", "accumulation", "gradient_checkpointing", "compute_dtype", "optimizer")
"""Fields of a recipe that determine the computation of a run, where the job does not choose them."""
VOLATILE = {"rules", "save_steps", "save_minutes", "epoch_checkpoints", "report_to", *HOW}
"""Fields of a recipe that may change when a run is resumed."""
DEFAULTS: dict[str, Any] = Recipe.model_validate({}).model_dump(mode="json", exclude=VOLATILE)
"""Recipe fields with their defaults. A field that is added to the recipe must leave a run as it was by its default: the
checkpoint of an earlier version, which lacks the field, is resumed with it."""


def run_settings(request: TrainRequest, recipe: ResolvedRecipe, facts: PrepareResult, steps: int) -> dict[str, Any]:
    """Collect the settings that determine a run; two runs with equal settings take the same steps.

    A checkpoint carries the settings (checkpoint.py).
    """
    prepared = Path(request.prepared_dir)
    held_out = next(iter(facts.eval_rows), None)
    files = [prepared / f"train.{part}.npy" for part in PARTS]
    files += [prepared / f"eval.{held_out}.{part}.npy" for part in PARTS if held_out]
    digest = hashlib.sha256("".join(file_sha256(path) for path in files if path.is_file()).encode())
    # an earlier version's checkpoint of supervised training has no fields of preferences
    left_out = VOLATILE | (set(PREFERENCE_FIELDS) if recipe.method == "sft" else set[str]())
    fixed: dict[str, Any] = {"optimizer": request.recipe.optimizer}
    if recipe.method == "kto":
        fixed["micro_batch"] = recipe.micro_batch  # its rows are compared with each other
    for name, folder in (("start_from", request.start_from), ("reference", request.reference)):
        if folder:
            fixed[name] = file_sha256(Path(folder) / WEIGHTS)
    return {
        "base": {"name": request.base.name, "revision": request.base.revision},
        "data_sha256": digest.hexdigest(),
        "planned_steps": steps,
        "recipe": {**recipe.model_dump(mode="json", exclude=left_out), **fixed},
        "seed": request.seed,
    }


def circumstances(recipe: ResolvedRecipe, device: str) -> dict[str, str]:
    """Collect the circumstances that a resumed run needs unchanged to be exact: libraries, device, computation."""
    how = {name: str(getattr(recipe, name)) for name in HOW}
    return {**devices.versions(device), **how, **devices.arithmetic(device)}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str | None]]:
    """Compare the circumstances of a checkpoint with the present ones; return each change as from and to."""
    return {name: [value, now.get(name)] for name, value in before.items() if value != now.get(name)}


def fit(recipe: ResolvedRecipe, request: TrainRequest, saved: Mapping[str, str], emit: Emit) -> ResolvedRecipe:
    """Adapt a recipe to this device.

    A run that resumes from another device's checkpoint computes in this device's own dtype. An 8-bit optimizer is used
    only where it restores its state after a save and a load (optimizer_check.py).

    Args:
        recipe: The recipe, resolved here or by an earlier attempt.
        request: The training request.
        saved: The circumstances of the checkpoint that the run resumes from; empty at the beginning of a run.
        emit: Receives a note of each change.
    """
    device, update, rules = request.device, {}, {}
    moved = bool(saved) and saved.get("device") != devices.name(device)
    if moved and recipe.compute_dtype != devices.compute_dtype(device):
        update["compute_dtype"] = devices.compute_dtype(device)
        rules["compute_dtype"] = f"{update['compute_dtype']}: what this {device} device computes well"
    if recipe.optimizer == "paged_adamw_8bit":
        tried = device == "cuda" or request.recipe.optimizer != "auto"
        fault = optimizer_check.fault(optimizer_check.paged_adamw_8bit, device) if tried else "it is for GPUs"
        if fault:
            update["optimizer"] = "adamw"
            rules["optimizer"] = f"adamw: paged 8-bit AdamW cannot be relied on here ({fault})"
            emit("note", level="warning", message=f"The optimizer is {rules['optimizer']}.")
    return recipe.model_copy(update={**update, "rules": {**recipe.rules, **rules}}) if update else recipe
