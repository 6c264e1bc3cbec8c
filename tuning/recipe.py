"""The training settings of a job, as one pydantic model; no torch here, so that every door can validate with it.

Defaults are the field's (QLoRA paper, arXiv 2305.14314; TRL and PEFT practice). ``auto`` means that celora decides
from the base model's size and the device's memory; what it decided, and by which rule, stands in the job's record.
"""

# pyright: reportIncompatibleVariableOverride=false
# (a resolved recipe narrows its fields, which are frozen)

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TARGET_PRESETS: dict[str, tuple[str, ...]] = {
    "minimal": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "full": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "all-linear": (),
}
"""What each preset of ``target_modules`` adapts; ``all-linear`` is every linear layer but the output head."""

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]


class Recipe(BaseModel):
    """How to train: adapter, quantization, schedule, batch, lengths, saving."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    gradient_checkpointing: bool | Auto = Field("auto", description="recompute activations to save memory, or auto")
    early_stopping_patience: PositiveInt | None = Field(
        None, description="stop after this many evaluations without a better eval loss"
    )
    eval_steps: PositiveInt | None = Field(None, description="steps between evaluations; four a run unless set")
    save_steps: PositiveInt | None = Field(None, description="steps between checkpoints, beside save_minutes")
    save_minutes: Annotated[float, Field(gt=0)] = Field(10, description="minutes between checkpoints")
    template: str | None = Field(None, description="a named chat template where the base has none: alpaca or chatml")
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


class Adjusted(BaseModel):
    """What a device's memory forced on a job after all: limits that how a batch is cut has to keep.

    None of it changes what is trained: the effective batch stays, and so do the steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    micro_batch: PositiveInt | None = Field(None, description="rows in one forward pass, at most")
    gradient_checkpointing: bool | None = Field(None, description="True: recompute activations, whatever was chosen")
    why: str = Field("", description="the rule, in words")


class ResolvedRecipe(Recipe):
    """A recipe without any ``auto`` left: what the trainer runs and the record keeps."""

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
        """The same training within tighter limits: fewer rows a pass, more passes a step, the same effective batch.

        Example:
            Micro batch 6 of an effective batch of 12, at most 4 rows: 4 rows and 3 passes.
        """
        most = min(self.micro_batch, limits.micro_batch or self.micro_batch)
        micro = next(size for size in range(most, 0, -1) if self.effective_batch % size == 0)
        changes: dict[str, Any] = {}
        if micro != self.micro_batch:
            changes |= {"micro_batch": micro, "accumulation": self.effective_batch // micro}
        if limits.gradient_checkpointing and not self.gradient_checkpointing:
            changes |= {"gradient_checkpointing": True}
        reasons = {name: f"{value}: {limits.why or 'the device ran out of memory'}" for name, value in changes.items()}
        return self.model_copy(update={**changes, "rules": {**self.rules, **reasons}}) if changes else self
