"""Computes the device memory of a training run from the shapes in a base's configuration; no torch.

The formula follows the tensors that autograd keeps in a transformers decoder with PEFT adapters. The adapter's size is
PEFT's to the number, and the activations are within a tenth of what ``torch.autograd.graph.saved_tensors_hooks`` sees
(tests/tuning/estimate/test_memory.py compares both).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..model_config import text_config
from ..recipe import TARGET_PRESETS, Recipe

GIB = 2**30
NF4_BITS = 4.127
"""Bits a weight in NF4 with double quantization: 4 + 8/64 + 32/(64 x 256) (QLoRA, arXiv 2305.14314, section 3)."""
OVERHEAD_BYTES = {"cpu": 0.6 * GIB, "cuda": 1.0 * GIB}
"""Bytes of the process itself: Python, torch and its libraries; on CUDA the context, cuBLAS space and fragmentation."""

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names of the number of experts in the configurations of families."""
FP32 = 4
"""Bytes of an fp32 number."""

INPUT_OF = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj"), "mlp"),
    "down_proj": "product",
}
"""The tensor that a linear layer reads; layers that name the same tensor share it."""

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Holds the sizes of a decoder that the formulas use, from its configuration."""

    hidden: int
    intermediate: int
    layers: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool
    fused: bool
    experts: int = 0
    active_experts: int = 0

    @classmethod
    def of(cls, model_config: dict[str, Any]) -> "Shape":
        """Read a ``config.json``; missing sizes are filled with the usual proportions."""
        config = text_config(model_config)
        hidden = int(config.get("hidden_size") or config.get("n_embd") or 1024)
        heads = int(config.get("num_attention_heads") or config.get("n_head") or 16)
        head = int(config.get("head_dim") or hidden // heads)
        experts = int(next((config[name] for name in EXPERTS if config.get(name)), 0))
        width = (config.get("moe_intermediate_size") if experts else 0) or config.get("intermediate_size")
        return cls(
            hidden=hidden,
            intermediate=int(width or config.get("n_inner") or 4 * hidden),
            layers=int(config.get("num_hidden_layers") or config.get("n_layer") or 24),
            queries=heads * head,
            keys=int(config.get("num_key_value_heads") or heads) * head,
            vocabulary=int(config.get("vocab_size") or 32_000),
            tied=bool(config.get("tie_word_embeddings", False)),
            fused=config.get("model_type") in ("phi3", "phi4"),
            experts=experts,
            active_experts=min(experts, int(config.get("num_experts_per_tok") or 1)),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each linear layer of one block, by name."""
        if self.fused:
            return {
                "qkv_proj": (self.hidden, self.queries + 2 * self.keys),
                "o_proj": (self.queries, self.hidden),
                "gate_up_proj": (self.hidden, 2 * self.intermediate),
                "down_proj": (self.intermediate, self.hidden),
            }
        attention = {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
        }
        if self.experts:
            return attention
        return {
            **attention,
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def expert(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of one expert's matrices, by the name of the tensor that holds all experts'."""
        if not self.experts:
            return {}
        return {
            "experts.gate_up_proj": (self.hidden, 2 * self.intermediate),
            "experts.down_proj": (self.intermediate, self.hidden),
        }

    @property
    def block_parameters(self) -> int:
        """Count the weights of all blocks' linear layers; these are quantized."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def multiplied_parameters(self) -> int:
        """Count the weights of blocks that a token is multiplied with; of a mixture, those of its active experts."""
        one = sum(inputs * outputs for inputs, outputs in self.expert.values())
        return self.block_parameters + self.layers * self.active_experts * one

    def targets(self, target_modules: str | list[str]) -> dict[str, tuple[int, int]]:
        """Return the linear layers of one block that a recipe adapts."""
        names = TARGET_PRESETS[target_modules] if isinstance(target_modules, str) else tuple(target_modules)
        if not names:  # all-linear
            return self.linears
        return {name: shape for name, shape in self.linears.items() if _named(name, names)}

    def adapted_experts(self, target_modules: str | list[str]) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of the matrices of each expert that a recipe adapts; ``all-linear`` adapts none."""
        names = TARGET_PRESETS[target_modules] if isinstance(target_modules, str) else tuple(target_modules)
        return {name: sides for name, sides in self.expert.items() if _named(name.rsplit(".", 1)[-1], names)}


FUSED_PARTS = {"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}}


def _named(layer: str, names: tuple[str, ...]) -> bool:
    parts = FUSED_PARTS.get(layer, set[str]())
    return any(layer == name.rsplit(".", 1)[-1] or name in parts for name in names)


def lora_parameters(model_config: dict[str, Any], recipe: Recipe) -> int:
    """Count the trainable weights of the recipe's adapter: rank x (inputs + outputs) a layer, and DoRA's magnitudes.

    An adapted expert counts like a layer.
    """
    shape = Shape.of(model_config)
    experts = sum(inputs + outputs for inputs, outputs in shape.adapted_experts(recipe.target_modules).values())
    block = sum(
        recipe.rank * (inputs + outputs) + (outputs if recipe.dora else 0)
        for inputs, outputs in shape.targets(recipe.target_modules).values()
    )
    return (block + shape.experts * recipe.rank * experts) * shape.layers


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Holds the device memory of a training run by part, bytes.

    Attributes:
        weights: The frozen base. NF4 with double quantization takes 4.127 bits a weight in the blocks (QLoRA, arXiv
            2305.14314, section 3); embedding, head and norms stay in the compute dtype.
        adapter: LoRA's A and B (and DoRA's magnitudes) in fp32, and their gradients.
        optimizer: AdamW's two moments of each adapter weight: fp32, or 8 bits each where they are paged (arXiv
            2110.02861).
        activations: Tensors that autograd keeps for the backward pass (``activation_bytes_per_token``); with
            checkpointing the input of each block and the inside of one (arXiv 1604.06174).
        logits: The logits of every position in the compute dtype, their fp32 copy and its gradient.
        work: The largest layer, dequantized for its matrix product; of adapted experts, one block's with the adapter
            added to them, which PEFT makes for each pass (of every block, without checkpointing).
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
        """Return the sum of all parts."""
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
    """Estimate the device memory of training: the sum of the parts that ``memory`` returns, with the same arguments."""
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
    """Estimate the device memory of training, by part.

    Args:
        recipe: The training settings; an ``auto`` value counts with its least: micro batch 1, checkpointing on.
        parameters: Number of weights of the base.
        model_config: The base's ``config.json``.
        length: Tokens of the longest row.
        device: ``cpu`` or ``cuda``.
        micro_batch: Rows in one forward pass, in place of the recipe's.
        gradient_checkpointing: In place of the recipe's.
        compute_dtype: Dtype of the activations and of weights that are not quantized.
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
        work=_work_parameters(shape, recipe, blocks=1 if checkpointing else shape.layers) * width,
        overhead=int(OVERHEAD_BYTES.get(device, 0)),
    )


def _work_parameters(shape: Shape, recipe: Recipe, *, blocks: int) -> int:
    """Count the weights that exist a second time while a block is computed."""
    largest = max(inputs * outputs for inputs, outputs in shape.linears.values())
    adapted = sum(inputs * outputs for inputs, outputs in shape.adapted_experts(recipe.target_modules).values())
    return max(largest, blocks * shape.experts * adapted)


def activation_bytes_per_token(shape: Shape, recipe: Recipe, *, width: int, device: str) -> int:
    """Return the bytes that autograd keeps for one token in one block, without checkpointing.

    A frozen linear keeps nothing. What is kept: both norms' fp32 input (8 h); queries and attention output (2 a), keys
    and values (2 k), gate, its activation and up (3 i), each ``width`` bytes; for each adapted layer the input in fp32
    as LoRA's A saw it and its dropout mask (one byte on CUDA, fp32 on the CPU); A's output (rank). In fp32 without
    dropout the layers that share an input share the copy of it, and the output projection's input is the attention's.
    Attention goes through a fused kernel, which keeps no length x length matrix.
    """
    adapted = shape.targets(recipe.target_modules)
    inner = 3 * shape.intermediate * max(1, shape.active_experts)
    kept = 8 * shape.hidden + width * (2 * shape.queries + 2 * shape.keys + inner)
    if recipe.dropout == 0 and width == FP32:
        blocks = {INPUT_OF[name]: inputs for name, (inputs, _) in adapted.items() if name != "o_proj"}
        lora = FP32 * sum(blocks.values())
    else:
        mask = 0 if recipe.dropout == 0 else 1 if device == "cuda" else FP32
        lora = (FP32 + mask) * sum(inputs for inputs, _ in adapted.values())
    return kept + lora + len(adapted) * recipe.rank * FP32
