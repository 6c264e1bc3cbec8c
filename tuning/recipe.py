"""Defines the training settings of a job as one pydantic model; no torch here, so that every interface can validate.

Defaults are the field's (QLoRA paper, arXiv 2305.14314; TRL and PEFT practice). ``auto`` means that celora decides
from the base model's size and the device's memory; the job's record holds each decision and its rule.
"""

# pyright: reportIncompatibleVariableOverride=false
# (a resolved recipe narrows its fields, which are frozen)

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TARGET_PRESETS: dict[str, tuple[str, ...]] = {
    "minimal": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "full": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "all-linear": (),
}
"""Layers that each preset of ``target_modules`` adapts; ``all-linear`` is every linear layer but the output head."""

Auto = Literal["auto"]
Method = Literal["sft", "dpo", "kto", "orpo"]
"""Ways to train: on answers, on pairs of answers, on answers with a label, on pairs without a reference."""
PAIRED: frozenset[Method] = frozenset({"dpo", "orpo"})
"""Methods whose rows are pairs of a chosen and a rejected answer."""
TEMPLATES = ("alpaca", "chatml", "training")
"""Chat templates that a recipe may name; ``templates/template_choice.py`` puts them in force."""
LOSS_TYPES: dict[Method, tuple[str, ...]] = {
    "dpo": (
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
        "discopop", "sft", "sigmoid_norm",
    ),
    "kto": ("kto", "apo_zero_unpaired"),
}  # fmt: skip
"""Losses of each method, by TRL's names; the first one is the default. TRL's ``aot`` sorts the pairs of a micro batch,
so its value would depend on the device's memory."""
Turns = Literal["whole", "last", "each"]
PositiveInt = Annotated[int, Field(gt=0)]


class Recipe(BaseModel):
    """How to train: adapter, quantization, schedule, batch, lengths, saving."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(
        "sft", description="sft trains on answers; dpo and orpo on chosen and rejected answers, kto on labelled ones"
    )
    beta: Annotated[float, Field(gt=0, le=100)] = Field(
        0.1, description="dpo, kto: how near the model stays to its reference; orpo: weight of the odds ratio"
    )
    loss_type: list[str] | None = Field(
        None,
        description="dpo: sigmoid (default), ipo, hinge, … or several, as sigmoid and sft; kto: kto or "
        "apo_zero_unpaired",
    )
    loss_weights: list[float] | None = Field(None, description="a weight for each loss_type; 1 unless set")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="dpo: share of the pairs whose order is expected to be wrong; losses robust and exo_pair"
    )
    desirable_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="kto: weight of the wanted answers")
    undesirable_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="kto: weight of the unwanted answers")
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="LoRA rank r")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="LoRA alpha; the update is scaled by alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="LoRA dropout, a probability")
    target_modules: str | list[str] = Field(
        "full", description="layers to adapt: minimal, attention, full, all-linear, or a list of module names"
    )
    dora: bool = Field(default=False, description="weight-decomposed LoRA (arXiv 2402.09353)")
    rslora: bool = Field(default=False, description="rank-stabilized scaling, alpha / sqrt(r) (arXiv 2312.03732)")
    quantization: Literal["nf4", "none"] = Field("nf4", description="how the frozen base is stored: nf4 or none")

    epochs: Annotated[float, Field(gt=0, le=100)] = Field(3, description="passes over the training rows")
    max_steps: PositiveInt | None = Field(None, description="optimizer steps; when set, it replaces epochs")
    micro_batch: PositiveInt | Auto = Field("auto", description="rows in one forward pass, or auto")
    accumulation: PositiveInt | None = Field(None, description="forward passes per optimizer step")
    effective_batch: PositiveInt | None = Field(
        None, description="rows per optimizer step (micro batch x accumulation); 16 unless set"
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | Auto = Field("auto", description="peak learning rate, or auto")
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="factor on the learning rate that auto chooses"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after warm-up")
    warmup_ratio: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.03, description="share of the steps that warm up, rounded down"
    )
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="warm-up in steps; when set, it replaces warmup_ratio"
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="AdamW weight decay")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradients are clipped to this norm")
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = Field(
        "auto", description="auto is paged 8-bit AdamW on CUDA and AdamW elsewhere"
    )
    max_length: PositiveInt | Auto = Field(
        "auto", description="tokens per row; auto is the smaller of the model's context and 2048"
    )
    packing: bool = Field(default=False, description="put several rows into one sequence, attention kept apart")
    completion_only: bool = Field(default=True, description="loss on the assistant's words only")
    turns: Turns = Field(
        "whole",
        description="which answers of a conversation are trained: all in one row, the last one, or each as a row of "
        "its own after the prompt in use",
    )
    gradient_checkpointing: bool | Auto = Field("auto", description="recompute activations to save memory, or auto")
    early_stopping_patience: PositiveInt | None = Field(
        None, description="stop after this many evaluations without a better eval loss"
    )
    eval_steps: PositiveInt | None = Field(None, description="steps between evaluations; four a run unless set")
    save_steps: PositiveInt | None = Field(None, description="steps between checkpoints, beside save_minutes")
    save_minutes: Annotated[float, Field(gt=0)] = Field(10, description="minutes between checkpoints")
    epoch_checkpoints: bool = Field(
        default=False,
        description="write a checkpoint at the end of each epoch too, after an evaluation; the last three are kept",
    )
    template: str | None = Field(
        None,
        description="a named chat template where the base has none: alpaca or chatml; training: TRL's training form of "
        "the base's own, for rows alone",
    )
    report_to: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list[Literal["tensorboard", "wandb"]], description="trackers to report to: tensorboard, wandb"
    )

    @field_validator("target_modules")
    @classmethod
    def _known_preset(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, str) and value not in TARGET_PRESETS:
            raise ValueError(
                f"{value!r} is no preset; use one of {', '.join(TARGET_PRESETS)}, or a list of module names"
            )
        if isinstance(value, list) and not value:
            raise ValueError("an empty list adapts nothing; name at least one module")
        return value

    @field_validator("learning_rate", "micro_batch", "max_length", "gradient_checkpointing", mode="before")
    @classmethod
    def _number_from_text(cls, value: Any) -> Any:
        return "auto" if isinstance(value, str) and value.strip().lower() == "auto" else value

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_loss_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        for fault in method_faults(self):
            raise ValueError(fault)
        return self

    @property
    def losses(self) -> dict[str, float]:
        """Return the losses of the method with their weights; empty where the method has only one loss."""
        names = self.loss_type or list(LOSS_TYPES.get(self.method, ())[:1])
        return dict(zip(names, self.loss_weights or [1.0] * len(names), strict=True))

    @model_validator(mode="after")
    def _batch_adds_up(self) -> Self:
        micro, accumulation, effective = self.micro_batch, self.accumulation, self.effective_batch
        if accumulation and effective:
            if isinstance(micro, int) and micro * accumulation != effective:
                raise ValueError(
                    f"micro_batch {micro} x accumulation {accumulation} is not effective_batch {effective}; "
                    "set two of them"
                )
            if effective % accumulation:
                raise ValueError(f"effective_batch {effective} is no multiple of accumulation {accumulation}")
        elif effective and isinstance(micro, int) and effective % micro:
            raise ValueError(f"effective_batch {effective} is no multiple of micro_batch {micro}")
        return self


PREFERENCE_FIELDS = (
    "method", "beta", "loss_type", "loss_weights", "label_smoothing", "desirable_weight", "undesirable_weight",
)  # fmt: skip
"""Fields that determine a run from preferences, and none from answers."""
READERS_OF: dict[str, tuple[Method, ...]] = {
    "beta": ("dpo", "kto", "orpo"),
    "loss_type": ("dpo", "kto"),
    "loss_weights": ("dpo",),
    "label_smoothing": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}
"""The methods that read each field."""
KTO_LEAST_BATCH = 2
"""KTO compares each answer with the answer to another prompt of its micro batch (arXiv 2402.01306, section 4.1)."""


def method_faults(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each setting that the method does not read or cannot train with."""
    method = recipe.method
    for name, methods in READERS_OF.items():
        if method not in methods and getattr(recipe, name) != Recipe.model_fields[name].default:
            needed = " or ".join(f"method: {one}" for one in methods)
            yield f"{name}: method {method} does not read it; write {needed}, or leave {name} away"
    known = LOSS_TYPES.get(method, ())
    for name in (recipe.loss_type or []) if known else []:
        if name not in known:
            yield f"loss_type: {name!r} is no loss of {method}; use {', '.join(known)}"
    if method == "sft":
        return
    if recipe.loss_type == []:
        yield "loss_type: an empty list is no loss; leave it away"
    if method == "kto" and len(recipe.loss_type or [""]) > 1:
        yield "loss_type: kto takes one loss"
    if recipe.loss_weights is not None and len(recipe.loss_weights) != len(recipe.loss_type or known[:1]):
        yield "loss_weights: write one weight for each loss_type, in the same order"
    yield from _loss_faults(recipe)
    if "exo_pair" in (recipe.loss_type or []) and recipe.label_smoothing == 0:
        yield "label_smoothing: the loss exo_pair needs it above 0; its paper (arXiv 2402.00856) takes 0.001"
    yield from _shape_faults(recipe)


def _loss_faults(recipe: Recipe) -> Iterator[str]:
    if any(not weight > 0 for weight in recipe.loss_weights or []):
        yield "loss_weights: each weight must be above 0; below, a run would learn the opposite"
    if len(set(recipe.loss_type or [])) < len(recipe.loss_type or []):
        yield "loss_type: write each loss once; a weight says how much it counts"


def _shape_faults(recipe: Recipe) -> Iterator[str]:
    method = recipe.method
    if recipe.packing:
        yield f"packing: {method} compares whole answers, which cannot share a sequence; set packing to false"
    if not recipe.completion_only:
        yield f"completion_only: {method} scores the answers alone; leave it at true"
    if recipe.turns != "whole":
        yield f"turns: {method} compares whole answers; leave turns at whole"
    if method == "kto" and 1 in (recipe.micro_batch, recipe.effective_batch):
        name = "micro_batch" if recipe.micro_batch == 1 else "effective_batch"
        yield f"{name}: kto compares each answer with another one of its micro batch; set at least {KTO_LEAST_BATCH}"


class Adjusted(BaseModel):
    """What a device's memory forced on a job after all: limits that how a batch is cut has to keep.

    None of it changes what is trained: the effective batch stays, and so do the steps. The record keeps it, and a later
    version may have added fields.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    micro_batch: PositiveInt | None = Field(None, description="rows in one forward pass, at most")
    gradient_checkpointing: bool | None = Field(None, description="True: recompute activations, whatever was chosen")
    why: str = Field("", description="the rule, in words")


class ResolvedRecipe(Recipe):
    """A recipe without any ``auto`` left: what the trainer runs and the record keeps, fields of a later version too."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    micro_batch: PositiveInt
    accumulation: PositiveInt
    effective_batch: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    max_length: PositiveInt
    gradient_checkpointing: bool
    optimizer: Literal["adamw", "paged_adamw_8bit"]
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    rules: dict[str, str] = Field(
        default_factory=dict, description="for each value that was auto: the rule that decided, in words"
    )

    def within(self, limits: Adjusted) -> "ResolvedRecipe":
        """Return the same training within tighter limits: fewer rows a pass, more passes, the same effective batch.

        Example:
            Micro batch 6 of an effective batch of 12, at most 4 rows: 4 rows and 3 passes.
        """
        # KTO's loss is taken from the rows of a micro batch, so another micro batch would be another run
        smaller = None if self.method == "kto" else limits.micro_batch
        most = min(self.micro_batch, smaller or self.micro_batch)
        micro = next(size for size in range(most, 0, -1) if self.effective_batch % size == 0)
        changes: dict[str, Any] = {}
        if micro != self.micro_batch:
            changes |= {"micro_batch": micro, "accumulation": self.effective_batch // micro}
        if limits.gradient_checkpointing and not self.gradient_checkpointing:
            changes |= {"gradient_checkpointing": True}
        reasons = {name: f"{value}: {limits.why or 'the device ran out of memory'}" for name, value in changes.items()}
        return self.model_copy(update={**changes, "rules": {**self.rules, **reasons}}) if changes else self


EVALUATIONS_PER_RUN = 4


def planned_steps(sequences: int, recipe: ResolvedRecipe) -> int:
    """Return the optimizer steps of a run: ``max_steps``, or those of its epochs.

    Args:
        sequences: Sequences of one epoch: rows, or packed lines. A last, smaller batch counts as a step.
        recipe: The resolved recipe.
    """
    if recipe.max_steps:
        return recipe.max_steps
    micro_batches = math.ceil(sequences / recipe.micro_batch)
    return math.ceil(recipe.epochs * max(1, math.ceil(micro_batches / recipe.accumulation)))


def evaluation_steps(planned: int, every: int | None) -> list[int]:
    """Return the steps after which a run is evaluated: each ``every`` steps, else four times; the last step always.

    Example:
        10 steps give 3, 5, 8 and 10.
    """
    if every is None:
        return sorted({-(-planned * part // EVALUATIONS_PER_RUN) for part in range(1, EVALUATIONS_PER_RUN + 1)})
    return sorted({*range(every, planned + 1, every), planned})


def epoch_ends(planned: int, recipe: Recipe) -> list[int]:
    """Return the last step of each epoch of a run; the run's last step ends its last epoch, be it whole or not.

    Example:
        8 steps of 2.5 epochs give 3, 6 and 8.
    """
    if recipe.max_steps or recipe.epochs <= 1:
        return [planned]
    steps = max(1, int(planned / recipe.epochs))
    return sorted({*(min(planned, steps * epoch) for epoch in range(1, int(recipe.epochs) + 1)), planned})


def evaluations_of(planned: int, recipe: Recipe) -> list[int]:
    """Return the steps after which a run is evaluated: those of ``evaluation_steps``, or the ends of its epochs."""
    if not recipe.epoch_checkpoints:
        return evaluation_steps(planned, recipe.eval_steps)
    asked = evaluation_steps(planned, recipe.eval_steps) if recipe.eval_steps else []
    return sorted({*asked, *epoch_ends(planned, recipe)})
