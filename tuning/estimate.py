"""What a training run needs and how its open settings are decided: plain arithmetic, no torch.

Every ``auto`` of a recipe gets a number here, and a sentence that says which rule gave it. The memory formula follows
the tensors that autograd keeps in a transformers decoder with PEFT adapters; its terms were checked against the bytes
that ``torch.autograd.graph.saved_tensors_hooks`` sees (tests/tuning/test_estimate.py does it again).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .recipe import TARGET_PRESETS, Recipe, ResolvedRecipe
from .weights import text_config

GIB = 2**30
NF4_BITS = 4.127
"""Bits a weight in NF4 with double quantization: 4 + 8/64 + 32/(64 x 256) (QLoRA, arXiv 2305.14314, section 3)."""
DEFAULT_BATCH = 16
DEFAULT_STEPS = 30
CPU_MICRO_BATCH = 4
UNKNOWN_MEMORY_BYTES = 16 * GIB
MEMORY_SHARE = 0.9
OVERHEAD_BYTES = {"cpu": 0.6 * GIB, "cuda": 1.0 * GIB}
"""The process itself: Python, torch and its libraries; on CUDA the context, cuBLAS work space and fragmentation."""

SMALL_MODEL = (200e6, 1e-3)
LARGE_MODEL = (3e9, {"nf4": 2e-4, "none": 1e-4})
"""Learning rates: at most this many parameters take the first, at least so many the second; between them the rate
falls in a straight line of logarithms. 2e-4 for 4-bit and 1e-4 for 16-bit LoRA are the field's; 1e-3 is what models
of 135 M and less need to learn a format in one pass over a few hundred rows."""

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder that the formulas speak of, from its configuration."""

    hidden: int
    intermediate: int
    layers: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool
    fused: bool

    @classmethod
    def of(cls, model_config: dict[str, Any]) -> "Shape":
        """Read a ``config.json``; what it leaves open is filled with the usual proportions."""
        config = text_config(model_config)
        hidden = int(config.get("hidden_size") or config.get("n_embd") or 1024)
        heads = int(config.get("num_attention_heads") or config.get("n_head") or 16)
        head = int(config.get("head_dim") or hidden // heads)
        return cls(
            hidden=hidden,
            intermediate=int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
            layers=int(config.get("num_hidden_layers") or config.get("n_layer") or 24),
            queries=heads * head,
            keys=int(config.get("num_key_value_heads") or heads) * head,
            vocabulary=int(config.get("vocab_size") or 32_000),
            tied=bool(config.get("tie_word_embeddings", False)),
            fused=config.get("model_type") in ("phi3", "phi4"),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of one block, by name."""
        if self.fused:
            return {
                "qkv_proj": (self.hidden, self.queries + 2 * self.keys),
                "o_proj": (self.queries, self.hidden),
                "gate_up_proj": (self.hidden, 2 * self.intermediate),
                "down_proj": (self.intermediate, self.hidden),
            }
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def targets(self, target_modules: str | list[str]) -> dict[str, tuple[int, int]]:
        """The linear layers of one block that a recipe adapts."""
        names = TARGET_PRESETS[target_modules] if isinstance(target_modules, str) else tuple(target_modules)
        if not names:  # all-linear
            return self.linears
        return {name: shape for name, shape in self.linears.items() if _named(name, names)}


FUSED_PARTS = {"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}}


def _named(layer: str, names: tuple[str, ...]) -> bool:
    parts = FUSED_PARTS.get(layer, set[str]())
    return any(layer == name.rsplit(".", 1)[-1] or name in parts for name in names)


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


def lora_parameters(model_config: dict[str, Any], recipe: Recipe) -> int:
    """Trainable weights of the recipe's adapter: rank x (inputs + outputs) a layer, and DoRA's magnitudes."""
    shape = Shape.of(model_config)
    block = sum(
        recipe.rank * (inputs + outputs) + (outputs if recipe.dora else 0)
        for inputs, outputs in shape.targets(recipe.target_modules).values()
    )
    return block * shape.layers


def memory_bytes(
    recipe: Recipe,
    *,
    parameters: int,
    model_config: dict[str, Any],
    length: int,
    device: str = "cuda",
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    compute_dtype: Dtype = "bfloat16",
) -> int:
    """Device memory that training takes, an estimate.

    Base (NF4: 4.127 bits a weight for the blocks; embedding, head and norms in the compute dtype) + adapter (fp32
    weights, gradients and AdamW's two moments, the moments in 8 bits where they are paged) + activations + logits +
    the largest dequantized layer + the process itself.

    Args:
        recipe: The training settings; what is ``auto`` in it counts with its least: micro batch 1, checkpointing on.
        parameters: Number of weights of the base.
        model_config: The base's ``config.json``.
        length: Tokens of the longest row.
        device: ``cpu`` or ``cuda``.
        micro_batch: Rows in one forward pass, instead of the recipe's.
        gradient_checkpointing: Instead of the recipe's.
        compute_dtype: Of the activations and of what isn't quantized.
    """
    shape = Shape.of(model_config)
    width = 4 if compute_dtype == "float32" else 2
    micro = micro_batch or (recipe.micro_batch if recipe.micro_batch != "auto" else 1)
    checkpointing = gradient_checkpointing
    if checkpointing is None:
        checkpointing = recipe.gradient_checkpointing if recipe.gradient_checkpointing != "auto" else True
    tokens = micro * length
    moments = 2 if device == "cuda" and recipe.optimizer != "adamw" else 8
    blocks = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears.values())
    blocks = min(blocks, parameters)
    base = blocks * (NF4_BITS / 8 if recipe.quantization == "nf4" else width) + (parameters - blocks) * width
    adapter = lora_parameters(model_config, recipe) * (4 + 4 + moments)
    layer = activation_bytes_per_token(shape, recipe, width=width, device=device)
    activations = tokens * (shape.layers * shape.hidden * width + layer if checkpointing else shape.layers * layer)
    logits = tokens * shape.vocabulary * (width + 4 + 4)
    dequantized = max(inputs * outputs for inputs, outputs in shape.linears.values()) * width
    return int(base + adapter + activations + logits + dequantized + OVERHEAD_BYTES.get(device, 0))


def activation_bytes_per_token(shape: Shape, recipe: Recipe, *, width: int, device: str) -> int:
    """Bytes that autograd keeps for one token in one block, without checkpointing.

    A frozen linear keeps nothing. What is kept: both norms' fp32 input (8 h); queries and attention output (2 a), keys
    and values (2 k), gate, its activation and up (3 i), each ``width`` bytes; for each adapted layer the input in fp32
    as LoRA's A saw it and its dropout mask (one byte on CUDA, fp32 on the CPU), or without dropout the input alone; and
    A's output (rank). Attention goes through a fused kernel, which keeps no length x length matrix.
    """
    mask = 0 if recipe.dropout == 0 else 1 if device == "cuda" else 4
    adapted = shape.targets(recipe.target_modules).values()
    lora = sum(inputs * (4 + mask) + recipe.rank * 4 for inputs, _ in adapted)
    kept = 8 * shape.hidden + width * (2 * shape.queries + 2 * shape.keys + 3 * shape.intermediate)
    return kept + lora


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
    from .engine import compute_dtype  # noqa: PLC0415  (the engine imports torch and this module)

    return compute_dtype(device)
