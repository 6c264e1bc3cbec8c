# pyright: basic
# (transformers ships incomplete types)
"""Translates a resolved recipe into the arguments that every trainer of TRL takes, and configures the trackers.

Checkpoints, logging and evaluation of transformers are switched off: control.py decides about them.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from ....errors import UnavailableError
from ...recipe import ResolvedRecipe

OPTIMIZERS = {"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    recipe: ResolvedRecipe, *, planned_steps: int, seed: int, device: str, out_dir: Path, name: str
) -> dict[str, Any]:
    """Return the arguments that the configurations of all of TRL's trainers share.

    Args:
        recipe: The resolved recipe.
        planned_steps: Optimizer steps of the whole run.
        seed: The job's seed.
        device: ``cpu`` or ``cuda``.
        out_dir: The attempt's folder.
        name: The run's name in trackers.
    """
    warmup = recipe.warmup_steps
    return {
        "output_dir": str(out_dir),
        "run_name": os.environ.get("WANDB_NAME", name),
        "seed": seed,
        "use_cpu": device == "cpu",
        "bf16": recipe.compute_dtype == "bfloat16",
        "fp16": recipe.compute_dtype == "float16",
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "max_steps": planned_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": SCHEDULES[recipe.schedule],
        "warmup_steps": warmup if warmup is not None else int(planned_steps * recipe.warmup_ratio),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": OPTIMIZERS[recipe.optimizer],
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if recipe.gradient_checkpointing else None,
        "logging_nan_inf_filter": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": list(recipe.report_to) or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "max_length": None,
    }


ROUTER: dict[str, Any] = {"router_aux_loss_coef": 0.0}
"""Argument of TRL's trainers that know mixtures of experts. Without it TRL lets the model return its router's logits,
for a loss that keeps the experts busy. The loss is celora's own and the router is frozen; and a model that returns
these logits can't answer a prompt (transformers 5.23 compares them with the mask of the whole text)."""


def point_trackers(recipe: ResolvedRecipe, out_dir: Path, name: str) -> None:
    """Configure the trackers to write below the attempt's folder; a job's attempts are one run in wandb."""
    folder = out_dir / "trackers"
    if "wandb" in recipe.report_to:
        if importlib.util.find_spec("wandb") is None:
            raise UnavailableError("report_to names wandb, which is not installed.", hint="pip install 'celora[wandb]'")
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DIR", str(folder))
        os.environ.setdefault("WANDB_PROJECT", "celora")
        os.environ.setdefault("WANDB_RUN_ID", name)
        os.environ.setdefault("WANDB_RESUME", "allow")
    if "tensorboard" in recipe.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
