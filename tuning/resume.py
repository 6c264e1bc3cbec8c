# pyright: basic
# (torch ships incomplete types)
"""What must be the same where a run goes on, what may differ, and what that does to it.

Settings and data shape a run: with others it would be another one, and its checkpoint is refused. The machine, its
libraries and the way in which a batch is cut into passes only decide how the same numbers are computed: with others the
run goes on by itself, to the same step, with losses that differ by rounding. It is then no longer the run of before to
the bit, and says so: in an event, in its result and in every checkpoint from there on.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..storage.manifest import file_sha256
from . import device as devices
from . import optimizers
from .protocol import Emit, PrepareResult, TrainRequest
from .recipe import ResolvedRecipe

HOW = ("micro_batch", "accumulation", "gradient_checkpointing", "compute_dtype", "optimizer")
"""Fields of a recipe that say how a run computes, where it is not chosen by the job."""
VOLATILE = {"rules", "save_steps", "save_minutes", "report_to", *HOW}
"""Fields of a recipe that may change when a run is resumed."""


def run_settings(request: TrainRequest, recipe: ResolvedRecipe, facts: PrepareResult, steps: int) -> dict[str, Any]:
    """What shapes a run: two runs with equal settings take the same steps. A checkpoint carries it (checkpoint.py)."""
    prepared = Path(request.prepared_dir)
    held_out = next(iter(facts.eval_rows), None)
    files = [prepared / f"train.{part}.npy" for part in ("tokens", "mask", "offsets")]
    files += [prepared / f"eval.{held_out}.{part}.npy" for part in ("tokens", "mask", "offsets") if held_out]
    digest = hashlib.sha256("".join(file_sha256(path) for path in files if path.is_file()).encode())
    return {
        "base": {"name": request.base.name, "revision": request.base.revision},
        "data_sha256": digest.hexdigest(),
        "planned_steps": steps,
        "recipe": {**recipe.model_dump(mode="json", exclude=VOLATILE), "optimizer": request.recipe.optimizer},
        "seed": request.seed,
    }


def circumstances(recipe: ResolvedRecipe, device: str) -> dict[str, str]:
    """What a resumed run should find again to be exact: libraries, the device, and how it computes."""
    how = {name: str(getattr(recipe, name)) for name in HOW}
    threads = {"threads": str(torch.get_num_threads())} if device == "cpu" else {}
    return {**devices.versions(device), **how, **threads}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str | None]]:
    """Which circumstances of a checkpoint are others now: from, to."""
    return {name: [value, now.get(name)] for name, value in before.items() if value != now.get(name)}


def fit(recipe: ResolvedRecipe, request: TrainRequest, saved: Mapping[str, str], emit: Emit) -> ResolvedRecipe:
    """The recipe as this device can run it.

    Where a checkpoint comes from another device, the compute dtype is this one's own. An 8-bit optimizer is used only
    where it survives being saved and loaded (optimizers.py).

    Args:
        recipe: As it was resolved, here or by an earlier attempt.
        request: What is trained.
        saved: The circumstances of the checkpoint that the run goes on from; empty where it begins.
        emit: Told of what is changed.
    """
    device, update, rules = request.device, {}, {}
    moved = bool(saved) and saved.get("device") != devices.name(device)
    if moved and recipe.compute_dtype != devices.compute_dtype(device):
        update["compute_dtype"] = devices.compute_dtype(device)
        rules["compute_dtype"] = f"{update['compute_dtype']}: what this {device} device computes well"
    if recipe.optimizer == "paged_adamw_8bit":
        tried = device == "cuda" or request.recipe.optimizer != "auto"
        fault = optimizers.fault(optimizers.paged_adamw_8bit, device) if tried else "it is for GPUs"
        if fault:
            update["optimizer"] = "adamw"
            rules["optimizer"] = f"adamw: paged 8-bit AdamW cannot be relied on here ({fault})"
            emit("note", level="warning", message=f"The optimizer is {rules['optimizer']}.")
    return recipe.model_copy(update={**update, "rules": {**recipe.rules, **rules}}) if update else recipe
