"""Device memory of a training run, from the shapes that a base's configuration gives; no torch.

The formula follows the tensors that autograd keeps in a transformers decoder with PEFT adapters. The adapter's size is
PEFT's to the number, and the activations are within a tenth of what ``torch.autograd.graph.saved_tensors_hooks`` sees
(tests/tuning/test_memory.py compares both).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .recipe import TARGET_PRESETS, Recipe
from .weights import text_config

GIB = 2**30
NF4_BITS = 4.127
"""Bits a weight in NF4 with double quantization: 4 + 8/64 + 32/(64 x 256) (QLoRA, arXiv 2305.14314, section 3)."""
OVERHEAD_BYTES = {"cpu": 0.6 * GIB, "cuda": 1.0 * GIB}
"""The process itself: Python, torch and its libraries; on CUDA the context, cuBLAS work space and fragmentation."""

FP32 = 4
"""Bytes of an fp32 number."""

INPUT_OF = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj"), "mlp"),
    "down_proj": "product",
}
"""Which tensor a linear layer reads; layers that name the same one share it."""

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

    @property
    def block_parameters(self) -> int:
        """Weights of all blocks' linear layers: what is quantized, and what every token is multiplied with."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

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


def lora_parameters(model_config: dict[str, Any], recipe: Recipe) -> int:
    """Trainable weights of the recipe's adapter: rank x (inputs + outputs) a layer, and DoRA's magnitudes."""
    shape = Shape.of(model_config)
    block = sum(
        recipe.rank * (inputs + outputs) + (outputs if recipe.dora else 0)
        for inputs, outputs in shape.targets(recipe.target_modules).values()
    )
    return block * shape.layers


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Device memory of a training run by part, bytes.

    Attributes:
        weights: The frozen base. NF4 with double quantization takes 4.127 bits a weight in the blocks (QLoRA, arXiv
            2305.14314, section 3); embedding, head and norms stay in the compute dtype.
        adapter: LoRA's A and B (and DoRA's magnitudes) in fp32, and their gradients.
        optimizer: AdamW's two moments of each adapter weight: fp32, or 8 bits each where they are paged (arXiv
            2110.02861).
        activations: What autograd keeps for the backward pass (``activation_bytes_per_token``); with checkpointing
            the input of each block and the inside of one (arXiv 1604.06174).
        logits: Of every position in the compute dtype, their fp32 copy and its gradient.
        work: The largest layer, dequantized for its matrix product.
        overhead: The process itself: libraries, CUDA context, work space of cuBLAS, fragmentation.
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    logits: int
    work: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(asdict(self).values())


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
    """Device memory that training takes, an estimate: the sum of what ``memory`` gives, with the same arguments."""
    return memory(
        recipe,
        parameters=parameters,
        model_config=model_config,
        length=length,
        device=device,
        micro_batch=micro_batch,
        gradient_checkpointing=gradient_checkpointing,
        compute_dtype=compute_dtype,
    ).total


def memory(
    recipe: Recipe,
    *,
    parameters: int,
    model_config: dict[str, Any],
    length: int,
    device: str = "cuda",
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    compute_dtype: Dtype = "bfloat16",
) -> Memory:
    """Device memory that training takes, by part; an estimate.

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
    width = FP32 if compute_dtype == "float32" else FP32 // 2
    micro = micro_batch or (recipe.micro_batch if recipe.micro_batch != "auto" else 1)
    checkpointing = gradient_checkpointing
    if checkpointing is None:
        checkpointing = recipe.gradient_checkpointing if recipe.gradient_checkpointing != "auto" else True
    tokens = micro * length
    moments = 2 if device == "cuda" and recipe.optimizer != "adamw" else 8
    blocks = min(shape.block_parameters, parameters)
    trained = lora_parameters(model_config, recipe)
    layer = activation_bytes_per_token(shape, recipe, width=width, device=device)
    inside = shape.layers * shape.hidden * width + layer if checkpointing else shape.layers * layer
    return Memory(
        weights=int(blocks * (NF4_BITS / 8 if recipe.quantization == "nf4" else width) + (parameters - blocks) * width),
        adapter=trained * 2 * FP32,
        optimizer=trained * moments,
        activations=tokens * inside,
        logits=tokens * shape.vocabulary * (width + 2 * FP32),
        work=max(inputs * outputs for inputs, outputs in shape.linears.values()) * width,
        overhead=int(OVERHEAD_BYTES.get(device, 0)),
    )


def activation_bytes_per_token(shape: Shape, recipe: Recipe, *, width: int, device: str) -> int:
    """Bytes that autograd keeps for one token in one block, without checkpointing.

    A frozen linear keeps nothing. What is kept: both norms' fp32 input (8 h); queries and attention output (2 a), keys
    and values (2 k), gate, its activation and up (3 i), each ``width`` bytes; for each adapted layer the input in fp32
    as LoRA's A saw it and its dropout mask (one byte on CUDA, fp32 on the CPU); A's output (rank). In fp32 without
    dropout the layers that share an input share what is kept of it, and the output projection's is the attention's.
    Attention goes through a fused kernel, which keeps no length x length matrix.
    """
    adapted = shape.targets(recipe.target_modules)
    kept = 8 * shape.hidden + width * (2 * shape.queries + 2 * shape.keys + 3 * shape.intermediate)
    if recipe.dropout == 0 and width == FP32:
        blocks = {INPUT_OF[name]: inputs for name, (inputs, _) in adapted.items() if name != "o_proj"}
        lora = FP32 * sum(blocks.values())
    else:
        mask = 0 if recipe.dropout == 0 else 1 if device == "cuda" else FP32
        lora = (FP32 + mask) * sum(inputs for inputs, _ in adapted.values())
    return kept + lora + len(adapted) * recipe.rank * FP32
